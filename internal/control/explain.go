package control

// Explanation says why a node treats each peer of a resource as it does. On a Secondary there are no peers, but Standing
// and Source.
type Explanation struct {
	Resource   string            `json:"resource"`
	Node       string            `json:"node"`
	Role       Role              `json:"role"`
	Generation uint64            `json:"generation"`
	Primary    string            `json:"primary"`
	InSync     []string          `json:"in-sync"`
	Standing   string            `json:"standing"` // what the record says of this node's replica
	Source     string            `json:"source"`   // who brings it up to date
	Peers      []PeerExplanation `json:"peers"`
}

// PeerExplanation is the decision that the connection with one peer began with.
type PeerExplanation struct {
	Name       string      `json:"name"`
	Generation uint64      `json:"generation"` // of the record that it was made from; 0: nothing was decided
	Facts      []Fact      `json:"facts"`
	Rules      []TriedRule `json:"rules"` // in order; the first that holds counts, and ends the list
	Result     string      `json:"result"`
	Reason     string      `json:"reason"`
}

// Fact is one thing that the decision looked at, and who said so: "record", "peer" or "here".
type Fact struct {
	Of    string `json:"of"`
	Name  string `json:"name"`
	Value string `json:"value"`
}

// TriedRule is one question with its answer.
type TriedRule struct {
	Question string `json:"question"`
	Yes      bool   `json:"yes"`
}
