// Package pki is who is who in a cluster: the cluster's certificate authority,
// the certificates it issues, the join tokens, and the TLS configurations that
// check them. It works on values only; files are package config's business.
//
// # Identities
//
// A certificate's common name is a name, its organizational unit the kind of
// holder. Each channel admits only the kinds that belong there:
//
//	OU             common name     may
//	duet-node      node name       all between nodes; be a server of all channels
//	duet-witness   node name       the same, less the channels that carry data
//	duet-join      token id        ask to join, nothing else, until it expires
//	duet-client    client name     use the NBD port, nothing else
//
// A certificate of another kind, of another cluster, expired or absent ends in
// the TLS handshake.
//
// # Checking
//
// Both ends check the chain up to the cluster's CA. A dialer also checks that
// the common name is the node it meant to reach, rather than a host name: nodes
// are known by name, wherever they listen. A joining node has no CA yet; it
// checks the CA that the server shows against the fingerprint in its token.
//
// # The token
//
// A token is one text to paste: where to connect, the fingerprint of the CA, and
// a short-lived client certificate with its key. Without it a stranger gets no
// further than the handshake. That it is used once only is for the committed
// cluster record to see to, by the token's id.
package pki
