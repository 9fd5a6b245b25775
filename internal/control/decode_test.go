package control

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
)

// What a request must not be is refused with usage, in words, before the node is asked.
func TestBadRequests(t *testing.T) {
	long := strings.Repeat("x", maxNameBytes+1)
	create := func(change string) string {
		return `{"name":"r","size-bytes":4096,"replicas":[{"node":"a","path":"/d"}]` + change + `}`
	}
	tests := []struct{ name, path, body, words string }{
		{"no JSON", "/v1/resources", "hello", "not understood"},
		{"cut", "/v1/resources", `{"name":"r0"`, "not understood"},
		{"an unknown key", "/v1/resources", create(`,"sise":1`), `"sise"`},
		{"more after the end", "/v1/resources", create("") + "{}", "more after"},
		{"too long", "/v1/resources", `{"name":"` + strings.Repeat("x", maxRequestBytes) + `"}`, "longer than"},
		{"no name", "/v1/resources", `{}`, "name of the resource is missing"},
		{"a long name", "/v1/resources", `{"name":"` + long + `"}`, "longer than"},
		{"no size", "/v1/resources", `{"name":"r"}`, "size"},
		{"an odd size", "/v1/resources", `{"name":"r","size-bytes":1000}`, "size"},
		{"no replicas", "/v1/resources", `{"name":"r","size-bytes":4096}`, "replicas"},
		{"nine replicas", "/v1/resources", `{"name":"r","size-bytes":4096,"replicas":[{},{},{},{},{},{},{},{},{}]}`, "9 replicas"},
		{"a replica without a path", "/v1/resources", `{"name":"r","size-bytes":4096,"replicas":[{"node":"a"}]}`, "path"},
		{"a node twice", "/v1/resources",
			`{"name":"r","size-bytes":4096,"replicas":[{"node":"a","path":"/d"},{"node":"a","path":"/e"}]}`, "named twice"},
		{"a preferred stranger", "/v1/resources", create(`,"preferred":"z"`), "z holds no replica"},
		{"a promotion", "/v1/resources", create(`,"promotion":"maybe"`), "auto or manual"},
		{"an ack", "/v1/resources", create(`,"ack":"maybe"`), "device or durable"},
		{"a negative size", "/v1/resources", `{"name":"r","size-bytes":-1}`, "not understood"},
		{"a token for ever", "/v1/tokens", `{"ttl":"10000h"}`, "possible"},
		{"a token of no time", "/v1/tokens", ``, "possible"},
		{"a ttl that is a number", "/v1/tokens", `{"ttl":3}`, "1h30m"},
		{"a ttl without a unit", "/v1/tokens", `{"ttl":"3"}`, "unit"},
		{"a long peer", "/v1/resources/r/connect", `{"peer":"` + long + `"}`, "longer than"},
		{"a slow verify", "/v1/resources/r/verify", `{"bytes-per-second":1}`, "too slow"},
		{"no route", "/v1/nothing", ``, "there is no POST /v1/nothing"},
		{"no such method", "/v1/status", ``, "there is no POST"},
	}
	node := &fakeNode{}
	server, err := NewServer(ServerConfig{Node: node})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			request := httptest.NewRequestWithContext(WithOrigin(t.Context(), Origin{Kind: OriginLocal}),
				http.MethodPost, tt.path, strings.NewReader(tt.body))
			recorder := httptest.NewRecorder()
			server.Handler().ServeHTTP(recorder, request)
			var failure Error
			if err := json.Unmarshal(recorder.Body.Bytes(), &failure); err != nil {
				t.Fatal(err)
			}
			if recorder.Code != http.StatusBadRequest || failure.Code != CodeUsage || !strings.Contains(failure.Message, tt.words) {
				t.Errorf("%d %+v, want usage with %q", recorder.Code, failure, tt.words)
			}
			if asked := node.lastAsked(); asked != nil {
				t.Errorf("the node was asked %v", asked)
			}
		})
	}
}

func TestValidateReplicaRequests(t *testing.T) {
	prepare := func(change func(*PrepareReplicaRequest)) validator {
		r := testPrepare
		change(&r)
		return &r
	}
	joining := func(change func(*JoinRequest)) validator {
		r := testJoin
		change(&r)
		return &r
	}
	tests := map[string]validator{
		"no resource":     prepare(func(r *PrepareReplicaRequest) { r.Resource = "" }),
		"a short id":      prepare(func(r *PrepareReplicaRequest) { r.ID = "0a" }),
		"an id of z":      prepare(func(r *PrepareReplicaRequest) { r.ID = strings.Repeat("z", 32) }),
		"slot -1":         prepare(func(r *PrepareReplicaRequest) { r.Slot = -1 }),
		"slot 8":          prepare(func(r *PrepareReplicaRequest) { r.Slot = 8 }),
		"size 0":          prepare(func(r *PrepareReplicaRequest) { r.SizeBytes = 0 }),
		"long metadata":   prepare(func(r *PrepareReplicaRequest) { r.Metadata = strings.Repeat("x", maxPathBytes+1) }),
		"no path":         prepare(func(r *PrepareReplicaRequest) { r.Path = "" }),
		"drop of nothing": &DropReplicaRequest{ID: testID},
		"drop without id": &DropReplicaRequest{Resource: "r0"},
		"no name":         joining(func(r *JoinRequest) { r.Name = "" }),
		"no kind":         joining(func(r *JoinRequest) { r.Kind = "" }),
		"no address":      joining(func(r *JoinRequest) { r.Address = "" }),
		"a huge csr":      joining(func(r *JoinRequest) { r.CSR = make([]byte, maxCSRBytes+1) }),
	}
	for name, request := range tests {
		if err := request.Validate(); ExitCode(err) != ExitUsage {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// fuzzDecode feeds a decoder of requests: whatever comes in, it answers with a valid request or a usage error, and what
// it accepts means the same after it was written and read again.
func fuzzDecode[In any](f *testing.F, seeds ...string) {
	for _, seed := range append(seeds, ``, `{}`, `null`, `[]`, `{"name":1}`, `{"a":{"b":[`) {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		first, second := new(In), new(In)
		if err := decodeRequest(strings.NewReader(string(body)), first); err != nil {
			if AsError(err).Code != CodeUsage {
				t.Fatalf("%v is no usage error", err)
			}
			return
		}
		text, err := json.Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > maxRequestBytes {
			return // a short body may stand for a long one: 1 byte of NUL is written as \u0000
		}
		if err := decodeRequest(strings.NewReader(string(text)), second); err != nil {
			t.Fatalf("%s is refused after all: %v", text, err)
		}
		again, err := json.Marshal(second)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(text, again) {
			t.Fatalf("%s became %s", text, again)
		}
	})
}

func FuzzResourceCreateRequest(f *testing.F) {
	fuzzDecode[ResourceCreateRequest](f, `{"name":"r0","size-bytes":4096,"replicas":[{"node":"a","path":"/d"}],"ack":"durable"}`)
}

func FuzzPrepareReplicaRequest(f *testing.F) {
	fuzzDecode[PrepareReplicaRequest](f, `{"resource":"r0","id":"`+testID+`","slot":1,"size-bytes":4096,"path":"/d"}`)
}

func FuzzJoinRequest(f *testing.F) {
	fuzzDecode[JoinRequest](f, `{"name":"b","kind":"witness","address":"h:1","csr":"AAAA"}`)
}

func FuzzTokenRequest(f *testing.F) { fuzzDecode[TokenRequest](f, `{"ttl":"1h"}`) }

// FuzzAnswers gives a client whatever a daemon, or what pretends to be one, may answer.
func FuzzAnswers(f *testing.F) {
	f.Add(200, []byte(`{"node":"a","resources":[{"name":"r0","connections":[{"peer_devices":[]}]}]}`))
	f.Add(409, []byte(`{"code":"refused","message":"no"}`))
	f.Add(500, []byte(`oops`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 200 || status > 599 || status == http.StatusSwitchingProtocols {
			return
		}
		transport := roundTripper(func(*http.Request) (*http.Response, error) {
			recorder := httptest.NewRecorder()
			recorder.WriteHeader(status)
			if _, err := recorder.Write(body); err != nil {
				return nil, err
			}
			return recorder.Result(), nil
		})
		c := NewClient(nil)
		c.http.Transport = transport
		if err := only(c.Status(t.Context())); err != nil && AsError(err).Message == "" {
			t.Fatal("a failure without words")
		}
		if err := c.Events(t.Context(), EventsRequest{}, func(Event) error { return nil }); err != nil && AsError(err).Message == "" {
			t.Fatal("a failure without words")
		}
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return r(request) }
