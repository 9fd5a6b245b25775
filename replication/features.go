package replication

import "slices"

// features are the parts of the protocol that can be left out. A session uses what both ends have.
type features struct {
	pieces  bool // an answer of several frames, ResyncCompare, ResyncSame
	zstd    bool // compressed ResyncData
	control bool // ResyncControl
}

// allFeatures is what this version can use.
var allFeatures = features{pieces: true, zstd: true, control: true}

const (
	featurePieces  = "pieces"
	featureZstd    = "zstd"
	featureControl = "control"
)

// names is the list that Hello carries.
func (f features) names() []string {
	var names []string
	for _, feature := range []struct {
		name string
		have bool
	}{{featurePieces, f.pieces}, {featureZstd, f.zstd}, {featureControl, f.control}} {
		if feature.have {
			names = append(names, feature.name)
		}
	}
	return names
}

// with is what is left when the peer has these.
func (f features) with(peer []string) features {
	return features{
		pieces:  f.pieces && slices.Contains(peer, featurePieces),
		zstd:    f.zstd && slices.Contains(peer, featureZstd),
		control: f.control && slices.Contains(peer, featureControl),
	}
}
