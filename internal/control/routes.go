package control

import (
	"errors"
	"net/http"
	"time"
)

// Sets of origins that share routes.
const (
	fromLocal   = OriginLocal
	fromMembers = OriginLocal | OriginNode
	fromAll     = OriginLocal | OriginNode | OriginObserver
)

// none is the request or the answer of a route that has none.
type none struct{}

// routes lists everything that can be asked, by whom, and which method of Node answers.
func (s *Server) routes(metrics http.Handler) http.Handler {
	n, mux := s.node, http.NewServeMux()
	route := func(from OriginKind, pattern string, handler http.HandlerFunc) {
		mux.HandleFunc(pattern, s.guard(from, handler))
	}
	route(fromMembers, "GET /v1/status", get(s.status))
	route(fromMembers, "GET /v1/version", get(func(r *http.Request) (*VersionInfo, error) { return n.Version(r.Context()) }))
	route(fromLocal, "GET /v1/nodes", get(func(r *http.Request) ([]NodeInfo, error) { return n.NodeList(r.Context()) }))
	route(fromLocal, "GET /v1/events", s.events)
	route(fromLocal, "POST /v1/tokens", post(func(r *http.Request, in *TokenRequest) (*Token, error) {
		return n.Token(r.Context(), in)
	}))
	s.resourceRoutes(route)
	s.splitRoutes(route)
	s.memberRoutes(route)
	s.switchRoutes(route)
	s.quorumRoutes(route)
	route(OriginJoin, "POST /v1/join", post(func(r *http.Request, in *JoinRequest) (*JoinReply, error) {
		return n.Join(r.Context(), originOf(r.Context()).Name, in)
	}))
	route(OriginNode, "POST /v1/replicas/prepare", post(func(r *http.Request, in *PrepareReplicaRequest) (*PreparedReplica, error) {
		return n.PrepareReplica(r.Context(), originOf(r.Context()).Name, in)
	}))
	route(OriginNode, "POST /v1/replicas/drop", post(func(r *http.Request, in *DropReplicaRequest) (none, error) {
		return none{}, n.DropReplica(r.Context(), originOf(r.Context()).Name, in)
	}))
	route(OriginNode, "POST /v1/replicas/make-room", post(func(r *http.Request, in *MakeRoomRequest) (*Room, error) {
		return n.MakeRoom(r.Context(), originOf(r.Context()).Name, in)
	}))
	route(fromAll, "GET /healthz", get(func(*http.Request) (none, error) { return none{}, nil }))
	route(fromAll, "GET /readyz", s.ready)
	if metrics != nil {
		route(fromAll, "GET /metrics", metrics.ServeHTTP)
	}
	route(fromAll, "/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, Errorf(CodeUsage, "there is no %.10s %.100s here", r.Method, r.URL.Path))
	})
	return mux
}

// resourceRoutes are the routes of the resources. A daemon acts for the operator of its own machine only, so they are
// all local.
func (s *Server) resourceRoutes(route func(OriginKind, string, http.HandlerFunc)) {
	n := s.node
	route(fromLocal, "GET /v1/resources", get(func(r *http.Request) ([]ResourceRecord, error) { return n.ResourceList(r.Context()) }))
	route(fromLocal, "POST /v1/resources", post(func(r *http.Request, in *ResourceCreateRequest) (*ResourceRecord, error) {
		return n.ResourceCreate(r.Context(), in)
	}))
	route(fromLocal, "GET /v1/resources/{name}", get(func(r *http.Request) (*ResourceRecord, error) {
		return n.ResourceShow(r.Context(), r.PathValue("name"))
	}))
	route(fromLocal, "GET /v1/resources/{name}/resync", get(func(r *http.Request) (*ResyncStatus, error) {
		return n.ResyncStatus(r.Context(), r.PathValue("name"))
	}))
	route(fromLocal, "GET /v1/resources/{name}/explain", get(func(r *http.Request) (*Explanation, error) {
		return n.Explain(r.Context(), r.PathValue("name"))
	}))
	route(fromLocal, "POST /v1/resources/{name}/resync", post(func(r *http.Request, in *ResyncRequest) (none, error) {
		return none{}, n.ChangeResync(r.Context(), r.PathValue("name"), in)
	}))
	route(fromLocal, "POST /v1/resources/{name}/delete", post(func(r *http.Request, in *ResourceDeleteRequest) (none, error) {
		return none{}, n.ResourceDelete(r.Context(), r.PathValue("name"), in)
	}))
	route(fromLocal, "POST /v1/resources/{name}/primary", post(func(r *http.Request, in *PrimaryRequest) (*RoleChange, error) {
		return n.Primary(r.Context(), r.PathValue("name"), in)
	}))
	route(fromLocal, "GET /v1/resources/{name}/force", get(func(r *http.Request) (*ForceReport, error) {
		return n.ForceReport(r.Context(), r.PathValue("name"))
	}))
	route(fromLocal, "POST /v1/resources/{name}/secondary", post(func(r *http.Request, _ *none) (*RoleChange, error) {
		return n.Secondary(r.Context(), r.PathValue("name"))
	}))
	route(fromLocal, "POST /v1/resources/{name}/verify", post(func(r *http.Request, in *VerifyRequest) (*VerifyStatus, error) {
		return n.Verify(r.Context(), r.PathValue("name"), in)
	}))
	route(fromLocal, "GET /v1/resources/{name}/verify", get(func(r *http.Request) (*VerifyStatus, error) {
		return n.VerifyStatus(r.Context(), r.PathValue("name"))
	}))
	route(fromLocal, "POST /v1/resources/{name}/verify/cancel", post(func(r *http.Request, in *VerifyCancelRequest) (none, error) {
		return none{}, n.VerifyCancel(r.Context(), r.PathValue("name"), in)
	}))
	route(fromLocal, "POST /v1/resources/{name}/resize", post(func(r *http.Request, in *ResizeRequest) (*ResourceRecord, error) {
		return n.Resize(r.Context(), r.PathValue("name"), in)
	}))
	route(fromLocal, "POST /v1/resources/{name}/suspend-io", post(func(r *http.Request, in *SuspendRequest) (*Suspension, error) {
		return n.SuspendIO(r.Context(), r.PathValue("name"), in)
	}))
	route(fromLocal, "POST /v1/resources/{name}/resume-io", post(func(r *http.Request, _ *none) (none, error) {
		return none{}, n.ResumeIO(r.Context(), r.PathValue("name"))
	}))
	route(fromLocal, "POST /v1/resources/{name}/connect", post(func(r *http.Request, in *PeerRequest) (none, error) {
		return none{}, n.Connect(r.Context(), r.PathValue("name"), in)
	}))
	route(fromLocal, "POST /v1/resources/{name}/disconnect", post(func(r *http.Request, in *PeerRequest) (none, error) {
		return none{}, n.Disconnect(r.Context(), r.PathValue("name"), in)
	}))
	route(fromLocal, "POST /v1/resources/{name}/detach", post(func(r *http.Request, _ *none) (none, error) {
		return none{}, n.Detach(r.Context(), r.PathValue("name"))
	}))
	route(fromLocal, "POST /v1/resources/{name}/attach", post(func(r *http.Request, in *AttachRequest) (none, error) {
		return none{}, n.Attach(r.Context(), r.PathValue("name"), in)
	}))
}

// splitRoutes are the routes about splits. What one node knows of its own side is asked by the other ones, too.
func (s *Server) splitRoutes(route func(OriginKind, string, http.HandlerFunc)) {
	n := s.node
	route(fromLocal, "POST /v1/resources/{name}/split", post(func(r *http.Request, in *SplitSideRequest) (*SplitReport, error) {
		return n.SplitShow(r.Context(), r.PathValue("name"), in.MaxRanges)
	}))
	route(fromMembers, "POST /v1/resources/{name}/split/side", post(func(r *http.Request, in *SplitSideRequest) (*SplitSide, error) {
		return n.SplitSide(r.Context(), r.PathValue("name"), in)
	}))
	route(fromLocal, "POST /v1/resources/{name}/split/resolve", post(func(r *http.Request, in *SplitResolveRequest) (*SplitResolution, error) {
		return n.SplitResolve(r.Context(), r.PathValue("name"), in)
	}))
}

// guard lets a request through if its origin may ask for it and there are not too many already.
func (s *Server) guard(from OriginKind, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		origin := originOf(r.Context())
		if origin.Kind&from == 0 {
			s.log.Warn("control request refused", "peer", origin.Name, "path", r.URL.Path)
			fail(w, Errorf(CodeForbidden, "%.10s %.100s can't be asked from there", r.Method, r.URL.Path))
			return
		}
		select {
		case s.requests <- struct{}{}:
			defer func() { <-s.requests }()
			next(w, r)
		default:
			fail(w, Errorf(CodeUnreachable, "the daemon is busy: %d requests are under way", maxRequests))
		}
	}
}

// get answers a request without a body.
func get[Out any](call func(*http.Request) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		out, err := call(r)
		answer(w, out, err)
	}
}

// post answers a request whose body is an In.
func post[In, Out any](call func(*http.Request, *In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		in := new(In)
		if err := receive(w, r, in); err != nil {
			fail(w, err)
			return
		}
		out, err := call(r, in)
		answer(w, out, err)
	}
}

// receive reads the body in bounded time. The deadline is for that alone: once the end of the body has been read,
// net/http lifts it, and goes on reading only to notice a client that goes away.
func receive(w http.ResponseWriter, r *http.Request, into any) error {
	err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return decodeRequest(r.Body, into)
}

func answer(w http.ResponseWriter, out any, err error) {
	if err != nil {
		fail(w, err)
		return
	}
	if err := writeJSON(w, http.StatusOK, out); err != nil {
		// The header may be out already; a cut connection is the one way left to say that the answer is not whole.
		panic(http.ErrAbortHandler)
	}
}

func fail(w http.ResponseWriter, err error) {
	failure := AsError(err)
	if err := writeJSON(w, outcome(failure.Code).status, failure); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// status completes what the node leaves to this package: lists that are empty rather than null, and the verdict.
func (s *Server) status(r *http.Request) (*Status, error) {
	status, err := s.node.Status(r.Context())
	if err != nil {
		return nil, err
	}
	status.complete()
	return status, nil
}

// ready answers 200 or 503, with the reason in both forms: the one for people and that of an Error.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	health := s.node.Health(r.Context())
	if !health.Ready {
		fail(w, Errorf(CodeUnreachable, "not ready: %s", health.Reason))
		return
	}
	answer(w, health, nil)
}
