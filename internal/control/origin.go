package control

import "context"

// OriginKind says what may be asked over a connection.
type OriginKind uint8

// The kinds of origins. The zero value may ask for nothing.
const (
	OriginLocal    OriginKind = 1 << iota // the unix socket: whoever may open it may do everything
	OriginNode                            // another node of the cluster
	OriginJoin                            // a node that wants to be a member, let in by a token
	OriginObserver                        // anybody who can connect: health and metrics only
)

// Origin is who is at the other end of a connection, as the connection itself proves it.
type Origin struct {
	Kind OriginKind
	Name string // of the node, or the id of the token; empty for the other kinds
}

// originKey is the context key of the Origin of a connection.
type originKey struct{}

// WithOrigin returns a context for requests that come from o.
func WithOrigin(ctx context.Context, o Origin) context.Context {
	return context.WithValue(ctx, originKey{}, o)
}

// originOf returns the zero Origin, which may do nothing, for a context without one.
func originOf(ctx context.Context) Origin {
	o, _ := ctx.Value(originKey{}).(Origin) // without one it is the zero Origin
	return o
}
