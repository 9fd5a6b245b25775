package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"
	"unicode"
)

const (
	// tokenPrefix begins every token and names the version of its encoding.
	tokenPrefix = "duet1-"
	// maxTokenText bounds the text that is looked at.
	maxTokenText = 8 << 10
	// maxTokenAddresses and maxAddressBytes bound what a token lists.
	maxTokenAddresses = 16
	maxAddressBytes   = 255
	// maxTokenCertificate is several times what a join certificate has.
	maxTokenCertificate = 2 << 10
	// keyBytes is the length of a P-256 private key.
	keyBytes = 32
	// tokenIDBytes makes ids that never meet by chance.
	tokenIDBytes = 8
	// maxTokenLife keeps forgotten tokens from staying keys for ever.
	maxTokenLife = 30 * 24 * time.Hour

	flagInsecure = 1 << 0
)

// Token lets a node join: where to, and as whom to ask.
type Token struct {
	ID          string      // the common name of its certificate; recorded as used by the cluster
	Addresses   []string    // of members, to be tried in order
	Fingerprint Fingerprint // of the cluster's CA
	Expires     time.Time
	Insecure    bool // the cluster runs without TLS

	certificate tls.Certificate
}

// TokenConfig says what a new token is to be.
type TokenConfig struct {
	Addresses []string
	Life      time.Duration
	Insecure  bool
}

func (c TokenConfig) validate() error {
	if len(c.Addresses) == 0 || len(c.Addresses) > maxTokenAddresses {
		return fmt.Errorf("a token lists 1 to %d addresses, not %d", maxTokenAddresses, len(c.Addresses))
	}
	for _, address := range c.Addresses {
		if address == "" || len(address) > maxAddressBytes {
			return fmt.Errorf("a token's addresses have 1 to %d bytes, not %d", maxAddressBytes, len(address))
		}
	}
	if c.Life <= 0 || c.Life > maxTokenLife {
		return fmt.Errorf("a token's life is above zero and at most %s, not %s", maxTokenLife, c.Life)
	}
	return nil
}

// NewToken makes a token. What it returns prints itself with Text.
func NewToken(ca *CA, config TokenConfig) (*Token, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	id := make([]byte, tokenIDBytes)
	if _, err := rand.Read(id); err != nil {
		return nil, fmt.Errorf("token: random number: %w", err)
	}
	t := &Token{ID: hex.EncodeToString(id), Addresses: config.Addresses, Fingerprint: ca.Fingerprint(), Insecure: config.Insecure}
	leaf, key, err := ca.issueClientSide(Identity{t.ID, KindJoin}, config.Life)
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	t.Expires = leaf.NotAfter
	t.certificate = tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	return t, nil
}

// Expired returns ErrTokenExpired, with the time, when the token's time is over.
func (t *Token) Expired(now time.Time) error {
	if now.Before(t.Expires) {
		return nil
	}
	return fmt.Errorf("%w (it was good until %s)", ErrTokenExpired, t.Expires.UTC().Format(time.RFC3339))
}

// Text returns the token as printed: the prefix and, in URL-safe base64 without
// padding,
//
//	0     1              33  34                              n          n+32         m         m+4
//	+-----+--------------+---+--- ... ----------------------+-----------+--- ... ----+---------+
//	|flags| fingerprint  |cnt| cnt x (length:1, address)    | key:32    | certificate| crc:4   |
//	+-----+--------------+---+--- ... ----------------------+-----------+--- ... ----+---------+
//
// flags: bit 0 insecure, the others zero. key: the P-256 scalar, big-endian.
// certificate: DER, up to the last 4 bytes. crc: CRC32C, little-endian, of the
// prefix and all bytes before it.
func (t *Token) Text() (string, error) {
	key, ok := t.certificate.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return "", errors.New("token: it has no key")
	}
	scalar, err := key.Bytes()
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	flags := byte(0)
	if t.Insecure {
		flags |= flagInsecure
	}
	body := append([]byte{flags}, t.Fingerprint[:]...)
	body = append(body, byte(len(t.Addresses)))
	for _, address := range t.Addresses {
		body = append(append(body, byte(len(address))), address...)
	}
	body = append(append(body, scalar...), t.certificate.Leaf.Raw...)
	body = binary.LittleEndian.AppendUint32(body, tokenChecksum(body))
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(body), nil
}

// ParseToken reads a token as it was pasted: white space and quotes around it,
// and line breaks in it, are not held against it. It says which it is: no token
// at all, or a mistyped one. Whether it has expired is for Expired to say.
func ParseToken(text string) (*Token, error) {
	if len(text) > maxTokenText {
		return nil, ErrNoToken
	}
	text = strings.Trim(strings.Map(dropSpace, text), `"'`)
	if !strings.HasPrefix(text, tokenPrefix) {
		return nil, ErrNoToken
	}
	encoding := base64.RawURLEncoding.Strict()
	body, err := encoding.DecodeString(text[len(tokenPrefix):])
	if err != nil || len(body) < 4 {
		return nil, ErrMistyped
	}
	content, sum := body[:len(body)-4], binary.LittleEndian.Uint32(body[len(body)-4:])
	if tokenChecksum(content) != sum {
		return nil, ErrMistyped
	}
	return decodeToken(content)
}

func dropSpace(r rune) rune {
	if unicode.IsSpace(r) {
		return -1
	}
	return r
}

func tokenChecksum(body []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum([]byte(tokenPrefix), table), table, body)
}

// errTokenContent is for what passed the checksum and still makes no sense: the
// work of another version, or of somebody who tries.
var errTokenContent = errors.New("the join token can't be used: another version of duet made it")

// decodeToken reads what Text describes, less the checksum.
func decodeToken(content []byte) (*Token, error) {
	t := &Token{}
	if len(content) < 1+len(t.Fingerprint)+1 || content[0]&^flagInsecure != 0 {
		return nil, errTokenContent
	}
	t.Insecure = content[0]&flagInsecure != 0
	content = content[1:]
	content = content[copy(t.Fingerprint[:], content):]
	count := int(content[0])
	content = content[1:]
	if count == 0 || count > maxTokenAddresses {
		return nil, errTokenContent
	}
	for range count {
		if len(content) == 0 || content[0] == 0 || len(content) < 1+int(content[0]) {
			return nil, errTokenContent
		}
		end := 1 + int(content[0])
		t.Addresses = append(t.Addresses, string(content[1:end]))
		content = content[end:]
	}
	if len(content) <= keyBytes || len(content) > keyBytes+maxTokenCertificate {
		return nil, errTokenContent
	}
	if err := t.setCertificate(content[:keyBytes], content[keyBytes:]); err != nil {
		return nil, err
	}
	return t, nil
}

// setCertificate checks that key and certificate belong together and are those
// of a token.
func (t *Token) setCertificate(scalar, der []byte) error {
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		return errTokenContent
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil || !key.PublicKey.Equal(leaf.PublicKey) {
		return errTokenContent
	}
	identity, err := IdentityOf(leaf)
	if err != nil || identity.Kind != KindJoin {
		return errTokenContent
	}
	t.ID, t.Expires = identity.Name, leaf.NotAfter
	t.certificate = tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	return nil
}
