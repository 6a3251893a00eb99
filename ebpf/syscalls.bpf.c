/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Which system calls took long, and what did the short ones sum up to? */

#define N_SYSCALLS 512
#define BIG_ALLOCATION_BYTES (1 << 20)

/* A rule: fold class, SYSCALL_* flags, offset of the interesting argument in struct pt_regs << 16. */
#define SYSCALL_CLASS_MASK 0xff
#define SYSCALL_ALWAYS (1 << 8) /* emitted however short */
#define SYSCALL_SIZED (1 << 9) /* the argument is a size in bytes: emitted if big */
#define SYSCALL_TIMEOUT (1 << 10) /* the argument is a timeout: 0 makes it a YIELD */
#define SYSCALL_WRITES (1 << 11) /* fills the page cache from user memory */
#define SYSCALL_ARGUMENT (1 << 12) /* has an interesting argument */

BPF_ARRAY(syscall_rules, u32, N_SYSCALLS);

static __always_inline u32 syscall_rule(u64 number)
{
	int key = number;
	u32 *rule = syscall_rules.lookup(&key);

	return rule ? *rule : FOLD_OTHER_SYSCALL;
}

int on_sys_enter(struct bpf_raw_tracepoint_args *ctx)
{
	u32 tid;
	struct thread *thread = current_thread(&tid);

	if (!thread)
		return 0;
#ifdef PROBE_SYSCALL
	/* These two are how our own probes of user functions enter the kernel. */
	if (ctx->args[1] == PROBE_SYSCALL || ctx->args[1] == PROBE_SYSCALL + 1)
		return 0;
#endif
	open_frame(thread, &thread->syscall, ctx->args[1], 0, 0);
	return 0;
}

static __always_inline void emit_syscall(struct frame *call, u32 tid, u32 class, u64 start_ns, u64 now_ns, u64 argument,
					 s64 returned)
{
	emit(RING_SYSCALL, tid, start_ns, call->key, now_ns - start_ns, argument, returned);
	if (class != FOLD_READ || !call->inode)
		return;
	/* A fold of no events names the file of the call that began with it. */
	announce_file(call->device, call->inode);
	emit(RING_FOLD, tid, start_ns, now_ns, class, (u64)call->device << 32, call->inode);
}

int on_sys_exit(struct bpf_raw_tracepoint_args *ctx)
{
	s64 returned = ctx->args[1];
	u64 now_ns, start_ns, own_ns, argument = 0, size_bytes = 0;
	u32 tid, rule, class;
	struct thread *thread = current_thread(&tid);
	struct frame *call;

	if (!thread || !thread->syscall.start_ns)
		return 0;
	call = &thread->syscall;
	now_ns = bpf_ktime_get_ns();
	start_ns = call->start_ns;
	own_ns = close_frame(thread, call, now_ns);
#ifdef WITH_HTTP
	watch_http(thread, tid, call->key, ctx->args[0], returned, now_ns);
#endif
	rule = syscall_rule(call->key);
	class = rule & SYSCALL_CLASS_MASK;
	if (rule & SYSCALL_ARGUMENT)
		argument = READ_KERNEL(u64, (void *)ctx->args[0], rule >> 16);
	if (rule & SYSCALL_TIMEOUT && !(u32)argument)
		class = FOLD_YIELD;
	if (rule & SYSCALL_SIZED)
		size_bytes = argument;
	else if (class == FOLD_READ && returned > 0)
		size_bytes = returned;
	/* However short, a wait for a lock tells whether its waker is to be followed. */
	if (rule & SYSCALL_ALWAYS || is_long(thread, call, now_ns - start_ns) ||
	    (rule & SYSCALL_SIZED && argument >= BIG_ALLOCATION_BYTES) ||
	    (class == FOLD_FUTEX && thread->off_ns != call->off_ns))
		emit_syscall(call, tid, class, start_ns, now_ns, argument, returned);
	else
		fold(thread, tid, class, start_ns, now_ns, own_ns, size_bytes, class == FOLD_READ ? call->device : 0,
		     class == FOLD_READ ? call->inode : 0);
	return 0;
}
