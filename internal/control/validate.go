package control

import (
	"fmt"
	"math"
	"time"
)

// Bounds of what a request may hold. They are far above what is useful; the node has its own, tighter rules for names.
const (
	maxNameBytes     = 128
	maxPathBytes     = 4096
	maxAddressBytes  = 300
	maxCSRBytes      = 16 << 10
	resourceIDDigits = 32
	sizeUnitBytes    = 4096 // a block of the out-of-sync bitmap
	// MaxReplicas is the number of replica slots of a resource.
	MaxReplicas = 8
	// MinTokenTTL and MaxTokenTTL bound the life of a join token: one that outlives its purpose is a key under the mat.
	MinTokenTTL = time.Second
	MaxTokenTTL = 7 * 24 * time.Hour
	// MinVerifyRate is the slowest verify, in bytes per second: one that never ends protects nobody.
	MinVerifyRate = 64 << 10
)

// validator is a request that can be checked without knowing any state.
type validator interface{ Validate() error }

// Validate checks what can be checked without knowing the cluster. Its errors have CodeUsage.
func (r *ResourceCreateRequest) Validate() error {
	if err := checkName("resource", r.Name); err != nil {
		return err
	}
	if r.SizeBytes == 0 || r.SizeBytes%sizeUnitBytes != 0 {
		return Errorf(CodeUsage, "the size of %s is %d bytes: it must be a multiple of 4 KiB and above 0", r.Name, r.SizeBytes)
	}
	if err := r.validateReplicas(); err != nil {
		return err
	}
	if len(r.Metadata) > maxPathBytes {
		return Errorf(CodeUsage, "the metadata path is longer than %d bytes", maxPathBytes)
	}
	switch r.Promotion {
	case "", PromotionAuto, PromotionManual:
	default:
		return Errorf(CodeUsage, "promotion is %.40q: auto or manual are possible", r.Promotion)
	}
	switch r.Ack {
	case "", AckDevice, AckDurable:
	default:
		return Errorf(CodeUsage, "ack is %.40q: device or durable are possible", r.Ack)
	}
	return r.validateDiskPolicy()
}

func (r *ResourceCreateRequest) validateDiskPolicy() error {
	switch r.OnIOError {
	case "", OnIOErrorDetach, OnIOErrorPassOn, OnIOErrorHandler:
	default:
		return Errorf(CodeUsage, "on-io-error is %.40q: detach, pass-on or handler are possible", r.OnIOError)
	}
	return checkDiskTimeout(time.Duration(r.DiskTimeout))
}

func (r *ResourceCreateRequest) validateReplicas() error {
	if len(r.Replicas) == 0 || len(r.Replicas) > MaxReplicas {
		return Errorf(CodeUsage, "%s has %d replicas: 1 to %d are possible", r.Name, len(r.Replicas), MaxReplicas)
	}
	seen := make(map[string]bool, len(r.Replicas))
	for _, replica := range r.Replicas {
		if err := checkName("node", replica.Node); err != nil {
			return err
		}
		if err := checkPath(replica.Path); err != nil {
			return err
		}
		if seen[replica.Node] {
			return Errorf(CodeUsage, "node %s is named twice: a node holds one replica of a resource", replica.Node)
		}
		seen[replica.Node] = true
	}
	if r.Preferred != "" && !seen[r.Preferred] {
		return Errorf(CodeUsage, "the preferred node %.*s holds no replica", maxNameBytes, r.Preferred)
	}
	return nil
}

// Validate checks the request. Its errors have CodeUsage.
func (r *AttachRequest) Validate() error {
	switch {
	case r.Path == "" && (r.Metadata != "" || r.Force):
		return Errorf(CodeUsage, "where metadata are, and what may be lost, is said of another disk; that one is not named")
	case r.Path == "":
		return nil
	case len(r.Metadata) > maxPathBytes:
		return Errorf(CodeUsage, "the metadata path is longer than %d bytes", maxPathBytes)
	}
	return checkPath(r.Path)
}

// Validate checks the request. Its errors have CodeUsage.
func (r *PeerRequest) Validate() error {
	if r.Peer == "" {
		return nil
	}
	return checkName("peer", r.Peer)
}

// minResyncRate is low enough for any link, and high enough that a resync gets on.
const minResyncRate = 4096

// Validate checks the request. Its errors have CodeUsage.
func (r *ResyncRequest) Validate() error {
	if r.MaxRate != nil && *r.MaxRate > 0 && *r.MaxRate < minResyncRate {
		return Errorf(CodeUsage, "a resync can't be limited to %d bytes per second: 4 KiB per second is the least", *r.MaxRate)
	}
	if r.Compare != nil && *r.Compare != CompareAuto && *r.Compare != CompareAlways {
		return Errorf(CodeUsage, "compare is %.40q: auto or always are possible", *r.Compare)
	}
	return nil
}

// Validate checks the request. Its errors have CodeUsage.
func (r *VerifyRequest) Validate() error {
	if r.BytesPerSecond != 0 && r.BytesPerSecond < MinVerifyRate {
		return Errorf(CodeUsage, "a rate of %d bytes per second is too slow: 64KiB or more are possible", r.BytesPerSecond)
	}
	return nil
}

// Validate checks the request. Its errors have CodeUsage.
func (r *ResizeRequest) Validate() error {
	if r.SizeBytes == 0 || r.SizeBytes%sizeUnitBytes != 0 || r.SizeBytes > math.MaxInt64 {
		return Errorf(CodeUsage, "the size is %d bytes: it must be a multiple of 4 KiB and above 0", r.SizeBytes)
	}
	return nil
}

// Validate checks the request. Its errors have CodeUsage.
func (r *MakeRoomRequest) Validate() error {
	if err := checkName("resource", r.Resource); err != nil {
		return err
	}
	return (&ResizeRequest{SizeBytes: r.SizeBytes}).Validate()
}

// Validate checks the request. Its errors have CodeUsage.
func (r *SuspendRequest) Validate() error {
	if r.For < 0 || r.Timeout < 0 {
		return Errorf(CodeUsage, "requests can't be suspended for %v, nor within %v", time.Duration(r.For), time.Duration(r.Timeout))
	}
	return nil
}

// Validate checks the request. Its errors have CodeUsage.
func (r *TokenRequest) Validate() error {
	if ttl := time.Duration(r.TTL); ttl < MinTokenTTL || ttl > MaxTokenTTL {
		return Errorf(CodeUsage, "a token can't be valid for %v: %v to %v are possible", ttl, MinTokenTTL, MaxTokenTTL)
	}
	return nil
}

// Validate checks the request. Its errors have CodeUsage.
func (r *JoinRequest) Validate() error {
	if err := checkName("node", r.Name); err != nil {
		return err
	}
	switch {
	case r.Kind != KindData && r.Kind != KindWitness:
		return Errorf(CodeUsage, "a node of kind %.40q: data or witness are possible", r.Kind)
	case r.Address == "" || len(r.Address) > maxAddressBytes || len(r.NBDAddress) > maxAddressBytes:
		return Errorf(CodeUsage, "the address of node %s is missing or too long", r.Name)
	case len(r.CSR) > maxCSRBytes:
		return Errorf(CodeUsage, "the certificate request of node %s has %d bytes: %d are possible", r.Name, len(r.CSR), maxCSRBytes)
	}
	return nil
}

// Validate checks the request. Its errors have CodeUsage.
func (r *PrepareReplicaRequest) Validate() error {
	if err := checkName("resource", r.Resource); err != nil {
		return err
	}
	if err := checkResourceID(r.ID); err != nil {
		return err
	}
	switch {
	case r.Slot < 0 || r.Slot >= MaxReplicas:
		return Errorf(CodeUsage, "slot %d: 0 to %d are possible", r.Slot, MaxReplicas-1)
	case r.SizeBytes == 0 || r.SizeBytes%sizeUnitBytes != 0 || r.SizeBytes > math.MaxInt64:
		return Errorf(CodeUsage, "the size of %s is %d bytes: no multiple of 4 KiB above 0", r.Resource, r.SizeBytes)
	case len(r.Metadata) > maxPathBytes:
		return Errorf(CodeUsage, "the metadata path is longer than %d bytes", maxPathBytes)
	}
	return checkPath(r.Path)
}

// Validate checks the request. Its errors have CodeUsage.
func (r *DropReplicaRequest) Validate() error {
	if err := checkName("resource", r.Resource); err != nil {
		return err
	}
	return checkResourceID(r.ID)
}

func checkName(what, name string) error {
	switch {
	case name == "":
		return Errorf(CodeUsage, "the name of the %s is missing", what)
	case len(name) > maxNameBytes:
		return Errorf(CodeUsage, "the name of the %s is longer than %d bytes", what, maxNameBytes)
	}
	return nil
}

func checkPath(path string) error {
	if path == "" || len(path) > maxPathBytes {
		return Errorf(CodeUsage, "the path of a disk is missing or longer than %d bytes", maxPathBytes)
	}
	return nil
}

func checkResourceID(id string) error {
	if len(id) != resourceIDDigits {
		return Errorf(CodeUsage, "a resource id has %d hexadecimal digits, not %d", resourceIDDigits, len(id))
	}
	for _, digit := range []byte(id) {
		if (digit < '0' || digit > '9') && (digit < 'a' || digit > 'f') {
			return &Error{Code: CodeUsage, Message: fmt.Sprintf("%q is no resource id", id)}
		}
	}
	return nil
}
