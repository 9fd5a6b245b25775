package control

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// events streams one JSON object per line, each sent at once.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	query := r.URL.Query()
	request := EventsRequest{Resource: query.Get("resource"), Follow: query.Get("follow") == "true"}
	stream := &eventStream{w: w, out: http.NewResponseController(w)}
	err := s.node.Events(ctx, request, stream.emit)
	if err == nil {
		err = stream.begin()
	}
	switch {
	case err == nil || ctx.Err() != nil:
	case !stream.begun:
		fail(w, err)
	default:
		s.log.Warn("event stream ended", "err", err)
		panic(http.ErrAbortHandler)
	}
}

// eventStream writes events to a client that may be slow, but not for ever.
type eventStream struct {
	w     http.ResponseWriter
	out   *http.ResponseController
	begun bool
}

// eventWriteTimeout ends a stream whose client does not read.
const eventWriteTimeout = 10 * time.Second

// begin sends the header, so that a client of a quiet stream knows it is being served.
func (e *eventStream) begin() error {
	if e.begun {
		return nil
	}
	e.begun = true
	e.w.Header().Set("Content-Type", "application/x-ndjson")
	e.w.WriteHeader(http.StatusOK)
	return e.out.Flush()
}

// emit sends one event. net/http lifts the deadline before the connection's next request.
func (e *eventStream) emit(event Event) error {
	line, err := json.Marshal(event)
	if err != nil {
		return err
	}
	if err := e.begin(); err != nil {
		return err
	}
	if err := e.out.SetWriteDeadline(time.Now().Add(eventWriteTimeout)); err != nil {
		return err
	}
	if _, err := e.w.Write(append(line, '\n')); err != nil {
		return err
	}
	return e.out.Flush()
}
