package mux

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"duet/internal/pki"
)

// Channel is one of the protocols that share the port.
type Channel string

// The channels; the package documentation says who may use which.
const (
	ChannelRaft    Channel = "raft"
	ChannelForward Channel = "forward"
	ChannelBeat    Channel = "beat"
	ChannelControl Channel = "control"
	ChannelPeer    Channel = "peer"
	ChannelExit    Channel = "exit"
	ChannelJoin    Channel = "join"
)

// admits returns the kinds of certificate that may use a channel, none for a
// channel that doesn't exist.
func (c Channel) admits() []pki.Kind {
	switch c {
	case ChannelRaft, ChannelForward, ChannelBeat, ChannelControl:
		return []pki.Kind{pki.KindData, pki.KindWitness}
	case ChannelPeer, ChannelExit:
		return []pki.Kind{pki.KindData}
	case ChannelJoin:
		return []pki.Kind{pki.KindJoin}
	}
	return nil
}

// known tells whether the channel exists.
func (c Channel) known() bool { return c.admits() != nil }

const (
	// protocolVersion begins every line, whatever the version: a change of
	// the lines, or of any channel's protocol, raises its number.
	protocolVersion = "DUET/1"
	versionPrefix   = "DUET/"

	// maxLineBytes bounds a line, with its line break.
	maxLineBytes = 256
	// maxReasonBytes leaves room for the beginning of a refusing line.
	maxReasonBytes = 200
	// maxNameBytes bounds the name of a node or the id of a token.
	maxNameBytes = 63
	// maxVersionDigits bounds what is repeated of another version.
	maxVersionDigits = 6
)

// preface is the first line of a connection. node is empty when TLS says who it
// is.
type preface struct {
	channel Channel
	node    string
	// recovery is how often the quorum of the sender's cluster was rebuilt; it is left out while that is 0.
	recovery uint64
}

// recoveryWord begins the last word of a first line.
const recoveryWord = "recovery="

// line returns the preface as it is sent.
func (p preface) line() string {
	words := []string{protocolVersion, string(p.channel)}
	if p.node != "" {
		words = append(words, p.node)
	}
	if p.recovery > 0 {
		words = append(words, recoveryWord+strconv.FormatUint(p.recovery, 10))
	}
	return strings.Join(words, " ") + "\n"
}

// parsePreface reads a first line, without its line break. It does not say
// whether the channel exists: the answer to that names the channel.
func parsePreface(line string) (preface, error) {
	words, err := splitLine(line)
	if err != nil {
		return preface{}, err
	}
	p := preface{}
	if last := len(words) - 1; last >= 1 && strings.HasPrefix(words[last], recoveryWord) {
		if p.recovery, err = parseRecovery(words[last][len(recoveryWord):]); err != nil {
			return preface{}, err
		}
		words = words[:last]
	}
	switch len(words) {
	case 2:
		p.node = words[1]
		if !isName(p.node) {
			return preface{}, fmt.Errorf("%w: %.70q is no name of a node", ErrNotDuet, p.node)
		}
		fallthrough
	case 1:
		p.channel = Channel(words[0])
		if !isName(words[0]) {
			return preface{}, fmt.Errorf("%w: %.70q is no name of a channel", ErrNotDuet, words[0])
		}
		return p, nil
	}
	return preface{}, fmt.Errorf("%w: its first line has %d words", ErrNotDuet, len(words)+1)
}

// parseRecovery accepts what line writes, which never is 0.
func parseRecovery(digits string) (uint64, error) {
	number, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || number == 0 || strconv.FormatUint(number, 10) != digits {
		return 0, fmt.Errorf("%w: %.30q is no number of a recovery", ErrNotDuet, digits)
	}
	return number, nil
}

// splitLine checks the version and returns the words after it. The version
// comes first in every version there will be, so that this is checked before
// anything else.
func splitLine(line string) ([]string, error) {
	version, rest, _ := strings.Cut(line, " ")
	digits, found := strings.CutPrefix(version, versionPrefix)
	if !found || digits == "" || len(digits) > maxVersionDigits || strings.Trim(digits, "0123456789") != "" {
		return nil, fmt.Errorf("%w: it begins with %.20q", ErrNotDuet, line)
	}
	if version != protocolVersion {
		return nil, fmt.Errorf("%w: peer speaks %s, this node %s", ErrVersion, version, protocolVersion)
	}
	if rest == "" {
		return nil, nil
	}
	return strings.Split(rest, " "), nil
}

func isName(text string) bool {
	return text != "" && len(text) <= maxNameBytes && strings.Trim(text, "abcdefghijklmnopqrstuvwxyz0123456789._-") == ""
}

// The second words of an answer.
const (
	wordOK        = "OK"
	wordRefused   = "REFUSED"
	wordRecovered = "RECOVERED"
)

// acceptance is the answer of a node that takes the connection.
func acceptance(node string) string {
	return protocolVersion + " " + wordOK + " " + node + "\n"
}

// refusal is the answer of a node that doesn't.
func refusal(reason string) string {
	return protocolVersion + " " + wordRefused + " " + printable(reason) + "\n"
}

// recoveredRefusal is the answer of a node whose cluster was recovered more often, or less often, than the dialer's.
func recoveredRefusal(mine uint64) string {
	return protocolVersion + " " + wordRecovered + " " + strconv.FormatUint(mine, 10) + "\n"
}

// printable makes foreign or long text fit for a line and a log.
func printable(text string) string {
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
	return clean[:min(len(clean), maxReasonBytes)]
}

// parseAnswer reads the answer to a preface, without its line break, and returns
// the node that gave it.
func parseAnswer(line string) (node string, err error) {
	words, err := splitLine(line)
	if err != nil {
		return "", err
	}
	switch {
	case len(words) >= 1 && words[0] == wordRefused:
		return "", fmt.Errorf("%w: %s", ErrRefused, printable(strings.Join(words[1:], " ")))
	case len(words) == 2 && words[0] == wordRecovered:
		number, err := strconv.ParseUint(words[1], 10, 64)
		if err != nil {
			return "", fmt.Errorf("%w: its answer is %.70q", ErrNotDuet, line)
		}
		return "", &OtherRecovery{Theirs: number}
	case len(words) == 2 && words[0] == wordOK && isName(words[1]):
		return words[1], nil
	}
	return "", fmt.Errorf("%w: its answer is %.70q", ErrNotDuet, line)
}

// readLine reads up to and with the next line break, byte by byte: what follows
// it belongs to another reader. It gives up at the first byte that no line of
// any version begins with, so that it does not wait for the rest of noise.
func readLine(r io.Reader) (string, error) {
	line := make([]byte, 0, maxLineBytes)
	one := make([]byte, 1)
	for len(line) < maxLineBytes {
		if _, err := io.ReadFull(r, one); err != nil {
			if len(line) > 0 && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
		if one[0] == '\n' {
			return string(line), nil
		}
		if line = append(line, one[0]); len(line) <= len(versionPrefix) && one[0] != versionPrefix[len(line)-1] {
			return "", fmt.Errorf("%w%s: it begins with %q", ErrNotDuet, guess(line), line)
		}
	}
	return "", fmt.Errorf("%w: its first line is longer than %d bytes", ErrNotDuet, maxLineBytes)
}

// guess says what the beginning of something else may be.
func guess(beginning []byte) string {
	const tlsHandshake, tlsAlert = 0x16, 0x15
	if beginning[0] == tlsHandshake || beginning[0] == tlsAlert {
		return " (it speaks TLS, and this node runs with --insecure)"
	}
	return ""
}

// permit says whether who is at the other end may use the channel.
func permit(channel Channel, identity pki.Identity) error {
	if !channel.known() {
		return fmt.Errorf("there is no channel %q", channel)
	}
	if !slices.Contains(channel.admits(), identity.Kind) {
		return fmt.Errorf("%s may not use channel %s", identity, channel)
	}
	return nil
}

// identify decides who the other end is: proven says the certificate, nil
// without TLS, where the preface claims it.
func identify(p preface, proven *pki.Identity) (pki.Identity, error) {
	switch {
	case proven != nil && p.node != "":
		return pki.Identity{}, errors.New("the first line claims a name, but this node goes by certificates")
	case proven != nil:
		return *proven, nil
	case p.node == "":
		return pki.Identity{}, errors.New("the first line must name the node that connects, since this node runs with --insecure")
	case p.channel == ChannelJoin:
		return pki.Identity{Name: p.node, Kind: pki.KindJoin}, nil
	}
	return pki.Identity{Name: p.node, Kind: pki.KindData}, nil
}
