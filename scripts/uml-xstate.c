/*
 * uml-xstate: lets User Mode Linux run on processors with tile registers (AMX).
 *
 * User Mode Linux moves the extended processor state of its processes with ptrace. It keeps the first 2,696 bytes of
 * that state, all there was before tile registers; with them the state is 11 KiB, and the kernel of the host refuses
 * to set a part of it, so that the guest dies at its first process. This library, preloaded into linux.uml by
 * scripts/uml-run, completes the part with what the process has at that moment. No guest program uses the tiles.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* More than any processor's state; the kernel says how much of it is used. */
#define STATE_MAX 65536

/*
 * The header of the state holds, at byte 512, which components are not in their initial state. Those from bit 10 on
 * lie behind the part that User Mode Linux knows, so its header says nothing of them.
 */
#define HEADER_OFFSET 512
#define KNOWN_COMPONENTS ((1UL << 10) - 1)

static long set_state(pid_t pid, const struct iovec *part)
{
	/* Not on the stack: that is a kernel stack of 16 KiB. One thread calls this, since the guest has one processor. */
	static char state[STATE_MAX];
	unsigned long components, partial;
	struct iovec whole = { state, sizeof(state) };

	if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, NT_X86_XSTATE, &whole) != 0)
		return -1;
	if (part->iov_len >= whole.iov_len || part->iov_len < HEADER_OFFSET + sizeof(components))
		return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, part);
	memcpy(&components, state + HEADER_OFFSET, sizeof(components));
	memcpy(&partial, (char *)part->iov_base + HEADER_OFFSET, sizeof(partial));
	components = (components & ~KNOWN_COMPONENTS) | (partial & KNOWN_COMPONENTS);
	memcpy(state, part->iov_base, part->iov_len);
	memcpy(state + HEADER_OFFSET, &components, sizeof(components));
	return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, NT_X86_XSTATE, &whole);
}

long ptrace(enum __ptrace_request request, ...)
{
	long (*next)(enum __ptrace_request, ...) = dlsym(RTLD_NEXT, "ptrace");
	va_list arguments;
	pid_t pid;
	void *address, *data;

	va_start(arguments, request);
	pid = va_arg(arguments, pid_t);
	address = va_arg(arguments, void *);
	data = va_arg(arguments, void *);
	va_end(arguments);
	if (request == PTRACE_SETREGSET && (unsigned long)address == NT_X86_XSTATE)
		return set_state(pid, data);
	return next(request, pid, address, data);
}
