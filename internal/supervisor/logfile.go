package supervisor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

const (
	maxLogBytes  = 64 << 10
	logLines     = 64          // that may wait to be written
	logCloseTime = time.Second // for the last of them
)

// LogFile is a log of bounded size. Who writes to it never waits for the disk: what comes too fast is lost.
type LogFile struct {
	lines   chan []byte
	written chan struct{}
	failure error // valid when written is closed
}

// OpenLog opens the log, after what is in it already, and starts its writer, which Close ends.
func OpenLog(path string) (*LogFile, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("supervisor's log: %w", err)
	}
	l := &LogFile{lines: make(chan []byte, logLines), written: make(chan struct{})}
	go l.writeLoop(file)
	return l, nil
}

// Write implements io.Writer; it is called once per line.
func (l *LogFile) Write(line []byte) (int, error) {
	select {
	case l.lines <- bytes.Clone(line):
	default:
	}
	return len(line), nil
}

// writeLoop owns the file. It is woken by lines and ended by Close. That a line can't be written is told by Close: there is
// nobody else to tell.
func (l *LogFile) writeLoop(file *os.File) {
	defer close(l.written)
	for line := range l.lines {
		if err := appendBounded(file, line, maxLogBytes); err != nil {
			l.failure = err
		}
	}
	l.failure = errors.Join(l.failure, file.Close())
}

// Close waits, for a moment, until everything is written. Nobody may write any more.
func (l *LogFile) Close() error {
	close(l.lines)
	select {
	case <-l.written:
		return l.failure
	case <-time.After(logCloseTime):
		return errors.New("supervisor's log: the disk does not answer")
	}
}

// appendBounded writes a line at the end, and keeps only the newer half if there is no room.
func appendBounded(file *os.File, line []byte, limit int64) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if size := info.Size(); size+int64(len(line)) > limit {
		rest, err := io.ReadAll(io.NewSectionReader(file, max(size-limit/2, 0), limit/2))
		if err != nil {
			return err
		}
		if _, from, found := bytes.Cut(rest, []byte("\n")); found {
			rest = from
		}
		if err := file.Truncate(0); err != nil {
			return err
		}
		line = append(rest, line...)
	}
	_, err = file.Write(line)
	return err
}
