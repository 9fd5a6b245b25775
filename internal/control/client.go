package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"syscall"
)

// Client asks a daemon. Every failure is an *Error. It may be used from many goroutines at once.
type Client struct {
	http *http.Client
	// unreachable says what it means that no connection can be made.
	unreachable func(cause error) *Error
}

// NewLocalClient makes a client of the daemon of a node's directory, by its control socket.
func NewLocalClient(dir, socketPath string) *Client {
	var dialer net.Dialer
	dial := func(ctx context.Context) (net.Conn, error) { return dialer.DialContext(ctx, "unix", socketPath) }
	c := NewClient(dial)
	c.unreachable = func(cause error) *Error { return localUnreachable(dir, cause) }
	return c
}

func localUnreachable(dir string, cause error) *Error {
	switch {
	case errors.Is(cause, syscall.ECONNREFUSED), errors.Is(cause, fs.ErrNotExist):
		return Errorf(CodeUnreachable, "the daemon is not running in %s", dir).
			WithHint("start it with `duet --dir %s run`", dir)
	case errors.Is(cause, fs.ErrPermission):
		return Errorf(CodeUnreachable, "no permission to speak to the daemon in %s", dir).
			WithHint("run this as the user the daemon runs as")
	default:
		return Errorf(CodeUnreachable, "the daemon in %s can't be reached: %v", dir, cause)
	}
}

// NewClient makes a client that connects by dial. Its failures to connect are reported as they are.
func NewClient(dial func(ctx context.Context) (net.Conn, error)) *Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := dial(ctx)
			if err != nil {
				return nil, &dialError{err}
			}
			return c, nil
		},
		DisableCompression: true, MaxConnsPerHost: 8, MaxIdleConns: 2, IdleConnTimeout: idleTimeout / 2,
	}
	return &Client{
		http:        &http.Client{Transport: transport},
		unreachable: func(cause error) *Error { return Errorf(CodeUnreachable, "can't connect: %v", cause) },
	}
}

// Close gives up idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// dialError marks that a request was never sent.
type dialError struct{ cause error }

func (e *dialError) Error() string { return e.cause.Error() }
func (e *dialError) Unwrap() error { return e.cause }

// call sends a request and decodes its answer into out, where out is not nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	response, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	text, err := readBounded(response.Body)
	if err != nil {
		return c.explain(ctx, err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return Errorf(CodeInternal, "the daemon's answer to %s is not understood: %v", path, err)
	}
	return nil
}

// send returns an answer with a body the caller must close, or the Error that the daemon answered.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return nil, Errorf(CodeInternal, "%v", err)
		}
		body = bytes.NewReader(text)
	}
	// The host is only there because HTTP wants one: the dialer knows where to go.
	request, err := http.NewRequestWithContext(ctx, method, "http://duet"+path, body)
	if err != nil {
		return nil, Errorf(CodeInternal, "%v", err)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, readFailure(response)
	}
	return response, nil
}

// explain turns a failure of the transport into an Error.
func (c *Client) explain(ctx context.Context, err error) *Error {
	var dial *dialError
	var known *Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return Errorf(CodeTimeout, "the daemon did not answer in time; what was asked may still happen").
			WithHint("look at `duet status`")
	case ctx.Err() != nil:
		return Errorf(CodeInternal, "interrupted; what was asked may still happen")
	case errors.As(err, &dial):
		return c.unreachable(dial.cause)
	default:
		return Errorf(CodeUnreachable, "the connection to the daemon ended before its answer; what was asked may still happen").
			WithHint("look at the daemon's log")
	}
}

// readFailure makes an Error of an answer that is none.
func readFailure(response *http.Response) *Error {
	text, err := readBounded(response.Body)
	failure := new(Error)
	if err != nil || json.Unmarshal(text, failure) != nil || failure.Message == "" {
		return Errorf(CodeInternal, "the daemon answered %s", response.Status)
	}
	return failure
}

// readBounded reads and closes a body.
func readBounded(body io.ReadCloser) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(body, maxResponseBytes+1))
	if err := errors.Join(err, body.Close()); err != nil {
		return nil, err
	}
	if len(text) > maxResponseBytes {
		return nil, Errorf(CodeInternal, "the daemon's answer is longer than %d bytes", maxResponseBytes)
	}
	return text, nil
}

func fetch[Out any](ctx context.Context, c *Client, method, path string, in any) (*Out, error) {
	out := new(Out)
	if err := c.call(ctx, method, path, in, out); err != nil {
		return nil, err
	}
	return out, nil
}

func resourcePath(resource, verb string) string {
	path := "/v1/resources/" + url.PathEscape(resource)
	if verb != "" {
		path += "/" + verb
	}
	return path
}

// checkResource keeps an empty or odd name from becoming a different route.
func checkResource(resource string) error {
	if err := checkName("resource", resource); err != nil {
		return err
	}
	if resource == "." || resource == ".." {
		return Errorf(CodeUsage, "%q is no name of a resource", resource)
	}
	return nil
}
