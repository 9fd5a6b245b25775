package nbd

import (
	"errors"
	"syscall"

	"duet/nbd/internal/wire"
)

// errnos maps what a device may say to the few numbers that the protocol knows.
var errnos = map[syscall.Errno]wire.Errno{
	syscall.EPERM:     wire.EPERM,
	syscall.EACCES:    wire.EPERM,
	syscall.EROFS:     wire.EPERM,
	syscall.EIO:       wire.EIO,
	syscall.ENOMEM:    wire.ENOMEM,
	syscall.EINVAL:    wire.EINVAL,
	syscall.ENOSPC:    wire.ENOSPC,
	syscall.EDQUOT:    wire.ENOSPC,
	syscall.EFBIG:     wire.ENOSPC,
	syscall.ENOTSUP:   wire.ENOTSUP,
	syscall.EOVERFLOW: wire.EINVAL, // on the wire it would mean that DF can't be honoured
	syscall.ESHUTDOWN: wire.ESHUTDOWN,
}

// errnoOf returns the protocol's number for a device's error. ENOTSUP is the answer to FAST_ZERO alone; elsewhere it
// would tell the client something about a flag that it has not sent.
func errnoOf(err error, flags wire.CommandFlags) wire.Errno {
	if err == nil {
		return 0
	}
	var number syscall.Errno
	if !errors.As(err, &number) {
		return wire.EIO
	}
	mapped, known := errnos[number]
	switch {
	case !known:
		return wire.EIO
	case mapped == wire.ENOTSUP && flags&wire.FlagFastZero == 0:
		return wire.EINVAL
	}
	return mapped
}
