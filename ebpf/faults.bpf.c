/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What did page faults cost, and on what memory?
 *
 * A fault begins at the exception tracepoint (or, where there is none, at the software event PAGE_FAULTS) and ends at
 * the software event PAGE_FAULTS_MIN or _MAJ, which mm_account_fault() in mm/memory.c fires once the fault is handled.
 */

/* Page fault error code of x86 (arch/x86/include/asm/trap_pf.h). */
#define ERROR_PROTECTION (1 << 0)
#define ERROR_WRITE (1 << 1)
#define ERROR_INSTRUCTION (1 << 4)

/* The top byte may be a tag on arm64, and the top bit is set in kernel addresses. */
#define ADDRESS_MASK 0x00ffffffffffffffULL

static __always_inline int fault_begins(u64 address, u64 error_code, u32 flags)
{
	u32 tid;
	struct thread *thread = current_thread(&tid);

	if (!thread)
		return 0;
	if (error_code & ERROR_PROTECTION)
		flags |= FAULT_PROTECTION;
	if (error_code & ERROR_WRITE)
		flags |= FAULT_WRITE;
	if (error_code & ERROR_INSTRUCTION)
		flags |= FAULT_INSTRUCTION;
	open_frame(thread, &thread->fault, address, 0, flags);
	return 0;
}

int on_fault_user(struct bpf_raw_tracepoint_args *ctx)
{
	return fault_begins(ctx->args[0], ctx->args[2], 0);
}

int on_fault_kernel(struct bpf_raw_tracepoint_args *ctx)
{
	if (ctx->args[0] >> 63)
		return 0;
	return fault_begins(ctx->args[0], ctx->args[2], FAULT_KERNEL);
}

int on_fault_software(struct bpf_perf_event_data *ctx)
{
	return fault_begins(ctx->addr, 0, 0);
}

static __always_inline int fault_ends(u64 address, u32 major)
{
	u32 tid, class, flags;
	u64 now_ns, start_ns, own_ns;
	struct thread *thread = current_thread(&tid);
	struct frame *fault;

	if (!thread)
		return 0;
	fault = &thread->fault;
	/* A fault that ended in a signal has no end; the next one took its place. */
	if (!fault->start_ns || (fault->key ^ address) & ADDRESS_MASK)
		return 0;
	now_ns = bpf_ktime_get_ns();
	start_ns = fault->start_ns;
	flags = fault->flags | major;
	own_ns = close_frame(thread, fault, now_ns);
	if (major || is_long(thread, fault, now_ns - start_ns)) {
		announce_file(fault->device, fault->inode);
		emit(RING_FAULT, tid, start_ns, fault->key, now_ns - start_ns, flags | (u64)fault->device << 32,
		     fault->inode);
	} else {
		class = flags & FAULT_FILE ? FOLD_FILE_FAULT : FOLD_ANON_FAULT;
		fold(thread, tid, class, start_ns, now_ns, own_ns, 0, fault->device, fault->inode);
	}
	return 0;
}

int on_fault_minor(struct bpf_perf_event_data *ctx)
{
	return fault_ends(ctx->addr, 0);
}

int on_fault_major(struct bpf_perf_event_data *ctx)
{
	return fault_ends(ctx->addr, FAULT_MAJOR);
}

#ifdef HUGE_PAGE_ORDER
/* Every page allocation of the machine passes here: decide at once. */
int on_page_alloc(struct bpf_raw_tracepoint_args *ctx)
{
	struct thread *thread;
	u32 tid;

	if ((u32)ctx->args[1] != HUGE_PAGE_ORDER || !ctx->args[0])
		return 0;
	thread = current_thread(&tid);
	/* Readahead into the page cache also allocates large folios; that fault is known to be a file's by then. */
	if (thread && thread->fault.start_ns && !(thread->fault.flags & FAULT_FILE))
		thread->fault.flags |= FAULT_HUGE;
	return 0;
}
#endif
