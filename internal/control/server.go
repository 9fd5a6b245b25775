package control

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// headerTimeout and bodyTimeout bound how long a request may take to arrive. Both are generous for a machine under
	// full load and still free a connection whose other end has gone without a word.
	headerTimeout = 10 * time.Second
	bodyTimeout   = 10 * time.Second
	// idleTimeout closes connections that clients keep and don't use.
	idleTimeout    = 2 * time.Minute
	maxHeaderBytes = 16 << 10
	// maxRequests bounds the requests under way at once, followers of events included.
	maxRequests = 256
)

// ServerConfig is what a Server needs.
type ServerConfig struct {
	Node    Node
	Logger  *slog.Logger // nil: none
	Metrics http.Handler // answers /metrics; nil: there is no such route
}

// Server turns a Node into HTTP routes, on as many listeners as wanted.
type Server struct {
	node     Node
	log      *slog.Logger
	http     *http.Server
	handler  http.Handler
	requests chan struct{} // one element for each request under way

	// stopping ends streams when Close begins; other requests are waited for.
	stopping context.Context
	stop     context.CancelFunc
	serving  sync.WaitGroup
}

// NewServer makes a Server that listens nowhere yet.
func NewServer(config ServerConfig) (*Server, error) {
	if config.Node == nil {
		return nil, errors.New("control: a server needs a node")
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{node: config.Node, log: config.Logger, requests: make(chan struct{}, maxRequests)}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.handler = s.routes(config.Metrics)
	s.http = &http.Server{
		Handler: s.handler, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(config.Logger.Handler(), slog.LevelWarn),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if known, ok := c.(*originConn); ok {
				return WithOrigin(ctx, known.origin)
			}
			return ctx
		},
	}
	return s, nil
}

// Handler returns the routes for requests whose context says where they come from (see WithOrigin).
func (s *Server) Handler() http.Handler { return s.handler }

// Serve answers on l until Close, and then returns nil. origin says who is at the other end of a connection; it is
// called once for each and must not block.
func (s *Server) Serve(l net.Listener, origin func(net.Conn) Origin) error {
	s.serving.Add(1)
	defer s.serving.Done()
	err := s.http.Serve(&originListener{Listener: l, origin: origin})
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Close stops listening, ends the event streams, and waits for the other requests until ctx ends; then it cuts them
// off. It may be called more than once.
func (s *Server) Close(ctx context.Context) error {
	s.stop()
	err := s.http.Shutdown(ctx)
	if ctx.Err() != nil {
		err = s.http.Close()
	}
	s.serving.Wait()
	return err
}

// LocalOrigin is the origin function of the unix socket.
func LocalOrigin(net.Conn) Origin { return Origin{Kind: OriginLocal} }

// originListener hands out connections that know their origin.
type originListener struct {
	net.Listener
	origin func(net.Conn) Origin
}

func (l *originListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &originConn{Conn: c, origin: l.origin(c)}, nil
}

type originConn struct {
	net.Conn
	origin Origin
}
