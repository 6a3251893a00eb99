/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Which allocator calls took long, and what did the short ones sum up to? Functions are numbered as MALLOC_OPS. */

#define OP_MALLOC 0
#define OP_CALLOC 1
#define OP_REALLOC 2
#define OP_FREE 3

static __always_inline int allocator_enters(u32 op, u64 size_bytes, u64 pointer)
{
	u32 tid;
	struct thread *thread = current_thread(&tid);

	if (thread)
		open_frame(thread, &thread->malloc, pointer, size_bytes, op);
	return 0;
}

int on_malloc(struct pt_regs *ctx)
{
	return allocator_enters(OP_MALLOC, PT_REGS_PARM1(ctx), 0);
}

int on_calloc(struct pt_regs *ctx)
{
	return allocator_enters(OP_CALLOC, PT_REGS_PARM1(ctx) * PT_REGS_PARM2(ctx), 0);
}

int on_realloc(struct pt_regs *ctx)
{
	return allocator_enters(OP_REALLOC, PT_REGS_PARM2(ctx), 0);
}

int on_free(struct pt_regs *ctx)
{
	return allocator_enters(OP_FREE, 0, PT_REGS_PARM1(ctx));
}

static __always_inline int allocator_returns(u32 op, u64 returned)
{
	u64 now_ns, start_ns, own_ns;
	u32 tid;
	struct thread *thread = current_thread(&tid);
	struct frame *call;

	if (!thread)
		return 0;
	call = &thread->malloc;
	/* When one function calls another, the inner one counts, and the outer one's return finds nothing. */
	if (!call->start_ns || call->flags != op)
		return 0;
	now_ns = bpf_ktime_get_ns();
	start_ns = call->start_ns;
	own_ns = close_frame(thread, call, now_ns);
	if (is_long(thread, call, now_ns - start_ns))
		emit(RING_MALLOC, tid, start_ns, op, now_ns - start_ns, call->argument, op == OP_FREE ? call->key : returned);
	else
		fold(thread, tid, FOLD_MALLOC, start_ns, now_ns, own_ns, 0, 0, 0);
	return 0;
}

int on_malloc_return(struct pt_regs *ctx)
{
	return allocator_returns(OP_MALLOC, PT_REGS_RC(ctx));
}

int on_calloc_return(struct pt_regs *ctx)
{
	return allocator_returns(OP_CALLOC, PT_REGS_RC(ctx));
}

int on_realloc_return(struct pt_regs *ctx)
{
	return allocator_returns(OP_REALLOC, PT_REGS_RC(ctx));
}

int on_free_return(struct pt_regs *ctx)
{
	return allocator_returns(OP_FREE, 0);
}
