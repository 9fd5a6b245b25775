package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// measurement is the outcome of one run of fio.
type measurement struct {
	IOPS           float64       `json:"iops"`
	BytesPerSecond float64       `json:"bytes-per-second"`
	Median         time.Duration `json:"p50-ns"`
	P99            time.Duration `json:"p99-ns"`
}

func (m measurement) String() string {
	return fmt.Sprintf("%8.0f IOPS %7.0f MB/s  p50 %v  p99 %v", m.IOPS, m.BytesPerSecond/1e6,
		m.Median.Round(time.Microsecond), m.P99.Round(time.Microsecond))
}

// measure runs fio once. Dirty pages of whoever was measured before are written first, lest this one pays for them.
func measure(ctx context.Context, r row, uri string, c *config) (measurement, error) {
	if err := syncFileSystem(c.dir); err != nil {
		return measurement{}, err
	}
	return fio(ctx, r, uri, c)
}

// fio runs fio once, whatever else goes on.
func fio(ctx context.Context, r row, uri string, c *config) (measurement, error) {
	command := exec.CommandContext(ctx, "fio", r.fioArguments(uri, c)...)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return measurement{}, fmt.Errorf("fio: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return parseFio(stdout.Bytes(), strings.HasSuffix(r.pattern, "read"))
}

// fioReport is what is read of fio's JSON.
type fioReport struct {
	Jobs []struct {
		Error int     `json:"error"`
		Read  fioSide `json:"read"`
		Write fioSide `json:"write"`
	} `json:"jobs"`
}

type fioSide struct {
	IOPS           float64 `json:"iops"`
	BytesPerSecond float64 `json:"bw_bytes"`
	Latency        struct {
		Percentile map[string]int64 `json:"percentile"`
	} `json:"clat_ns"`
}

// parseFio reads fio's report. Warnings may stand before it.
func parseFio(output []byte, read bool) (measurement, error) {
	start := bytes.IndexByte(output, '{')
	if start < 0 {
		return measurement{}, fmt.Errorf("fio printed no report: %.200s", output)
	}
	var report fioReport
	if err := json.Unmarshal(output[start:], &report); err != nil {
		return measurement{}, fmt.Errorf("fio's report: %w", err)
	}
	if len(report.Jobs) != 1 || report.Jobs[0].Error != 0 {
		return measurement{}, errors.New("fio's job failed")
	}
	side := report.Jobs[0].Write
	if read {
		side = report.Jobs[0].Read
	}
	if side.IOPS <= 0 {
		return measurement{}, errors.New("fio did nothing")
	}
	return measurement{
		IOPS: side.IOPS, BytesPerSecond: side.BytesPerSecond,
		Median: time.Duration(side.Latency.Percentile["50.000000"]),
		P99:    time.Duration(side.Latency.Percentile["99.000000"]),
	}, nil
}

// syncFileSystem writes what is dirty on the file system that holds dir.
func syncFileSystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}
