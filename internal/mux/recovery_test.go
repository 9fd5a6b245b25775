package mux

import (
	"errors"
	"fmt"
	"testing"

	"duet/internal/pki"
)

// Nodes of before a recovery and of after it have nothing to do with each other, on no channel, whichever of them connects.
func TestOtherRecoveriesAreRefused(t *testing.T) {
	ca := newCA(t)
	for _, secured := range []bool{true, false} {
		for _, n := range []struct{ here, there uint64 }{{0, 0}, {3, 3}, {0, 1}, {1, 0}, {1, 2}} {
			t.Run(fmt.Sprintf("%v/%d-%d", secured, n.here, n.there), func(t *testing.T) {
				var mine, theirs *pki.Credentials
				if secured {
					mine, theirs = credentials(t, ca, "a", pki.KindData), credentials(t, ca, "b", pki.KindData)
				}
				m := listen(t, Config{Credentials: mine, Recovery: n.here})
				for _, channel := range []Channel{ChannelRaft, ChannelForward, ChannelControl, ChannelPeer} {
					l := m.claim(t, channel)
					conn, err := newDialer(t, "b", theirs).AtRecovery(n.there).Dial(t.Context(), m.Addr().String(), "a", channel)
					if n.here == n.there {
						if err != nil {
							t.Fatal(err)
						}
						closeIt(t, conn)
						continue
					}
					var other *OtherRecovery
					if !errors.As(err, &other) || *other != (OtherRecovery{Mine: n.there, Theirs: n.here}) || other.Outlived() != (n.here > n.there) {
						t.Errorf("%s: %v", channel, err)
					}
					closeIt(t, l)
				}
			})
		}
	}
}

// Whoever joins knows of no recovery yet.
func TestJoinNeedsNoRecovery(t *testing.T) {
	m := listen(t, Config{Recovery: 2})
	m.claim(t, ChannelJoin)
	token, err := pki.NewToken(newCA(t), pki.TokenConfig{Addresses: []string{m.Addr().String()}, Life: within, Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewJoinDialer(token, within)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := d.Dial(t.Context(), m.Addr().String(), "", ChannelJoin)
	if err != nil {
		t.Fatal(err)
	}
	closeIt(t, conn)
}
