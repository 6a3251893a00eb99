/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* When was a thread on a CPU, why did it leave, and who woke it? */

#define TASK_DEAD 0x80 /* include/linux/sched.h */

/* What the CPU is doing besides running a task: IRQ_* bits. */
BPF_PERCPU_ARRAY(irq_context, u64, 1);

static __always_inline int set_irq_context(u64 clear, u64 set)
{
	int zero = 0;
	u64 *context = irq_context.lookup(&zero);

	if (context)
		*context = (*context & ~clear) | set;
	return 0;
}

int on_softirq_entry(struct bpf_raw_tracepoint_args *ctx)
{
	return set_irq_context(IRQ_SOFTIRQ_MASK, (ctx->args[0] + 1) & IRQ_SOFTIRQ_MASK);
}

int on_softirq_exit(struct bpf_raw_tracepoint_args *ctx)
{
	return set_irq_context(IRQ_SOFTIRQ_MASK, 0);
}

int on_timer_entry(struct bpf_raw_tracepoint_args *ctx)
{
	return set_irq_context(0, IRQ_TIMER);
}

int on_timer_exit(struct bpf_raw_tracepoint_args *ctx)
{
	return set_irq_context(IRQ_TIMER, 0);
}

int on_irq_entry(struct bpf_raw_tracepoint_args *ctx)
{
	return set_irq_context(IRQ_HARD_MASK, ((ctx->args[0] + 1) << 16) & IRQ_HARD_MASK);
}

int on_irq_exit(struct bpf_raw_tracepoint_args *ctx)
{
	return set_irq_context(IRQ_HARD_MASK, 0);
}

/*
 * Some kernels do not report every switch away from the idle task. The scheduler's own account then tells when the
 * thread came: it has run since then without a break.
 */
static __always_inline void rebuild_arrival(struct thread *thread, u32 tid, u64 now_ns, u64 exec_ns)
{
	u64 run_ns = exec_ns - thread->exec_ns;
	u64 came_ns = now_ns - run_ns;

	if (came_ns < thread->left_ns || run_ns > now_ns)
		came_ns = thread->left_ns;
	if (thread->is_off)
		thread->off_ns += came_ns - thread->left_ns;
	emit(RING_SWITCH, 0, came_ns, tid, SWITCH_REBUILT, (u64)thread->tgid << 32, SWITCH_NEXT_IN_TREE);
}

static __always_inline void leave_cpu(struct thread *thread, u32 tid, u64 now_ns, u64 exec_ns, u64 state)
{
	if (thread->is_off || thread->is_unseen)
		rebuild_arrival(thread, tid, now_ns, exec_ns);
	thread->left_ns = now_ns;
	thread->exec_ns = exec_ns;
	thread->is_off = 1;
	thread->is_unseen = 0;
	if (state & SWITCH_IOWAIT)
		thread->n_iowaits++;
	if (!(state & SWITCH_PREEMPTED) && state & TASK_DEAD) {
		emit_folds(thread, tid);
		threads.delete(&tid);
	}
}

static __always_inline void enter_cpu(struct thread *thread, u64 now_ns)
{
	if (thread->is_off)
		thread->off_ns += now_ns - thread->left_ns;
	thread->is_off = 0;
	thread->is_unseen = 0;
}

int on_switch(struct bpf_raw_tracepoint_args *ctx)
{
	void *prev = (void *)ctx->args[1];
	void *next = (void *)ctx->args[2];
	/* The previous task is still current. */
	u64 prev_ids = bpf_get_current_pid_tgid();
	u32 prev_tid = prev_ids;
	u32 next_tid = READ_KERNEL(u32, next, OFF_task_pid);
	struct thread *prev_thread = prev_tid ? threads.lookup(&prev_tid) : NULL;
	struct thread *next_thread = next_tid ? threads.lookup(&next_tid) : NULL;
	u64 now_ns, state, exec_ns, ran_ns = 0, in_tree = 0;
	u32 next_tgid;

	if (prev_thread)
		in_tree |= SWITCH_PREV_IN_TREE;
	if (next_thread)
		in_tree |= SWITCH_NEXT_IN_TREE;
	/* Keep the compiler from testing "prev_thread | next_thread": the verifier allows no arithmetic on pointers. */
	asm volatile("" : "+r"(in_tree));
	if (!in_tree)
		return 0;
	now_ns = bpf_ktime_get_ns();
#ifdef OFF_task_state
	state = READ_KERNEL(u32, prev, OFF_task_state) & 0xffff;
#else
	state = ctx->args[3] & 0xffff;
#endif
	if (ctx->args[0] & 1)
		state |= SWITCH_PREEMPTED;
	if (prev_thread) {
		if (READ_KERNEL(u8, prev, OFF_task_in_iowait) >> BIT_task_in_iowait & 1)
			state |= SWITCH_IOWAIT;
		exec_ns = READ_KERNEL(u64, prev, OFF_task_exec);
		ran_ns = exec_ns - prev_thread->exec_ns;
		if (ran_ns >> 32)
			ran_ns = 0xffffffff;
		leave_cpu(prev_thread, prev_tid, now_ns, exec_ns, state);
	}
	if (next_thread)
		enter_cpu(next_thread, now_ns);
	next_tgid = READ_KERNEL(u32, next, OFF_task_tgid);
	emit(RING_SWITCH, prev_tid, now_ns, next_tid, state, prev_ids >> 32 | (u64)next_tgid << 32,
	     in_tree | ran_ns << 32);
	return 0;
}

int on_waking(struct bpf_raw_tracepoint_args *ctx)
{
	u32 tid = READ_KERNEL(u32, (void *)ctx->args[0], OFF_task_pid);
	struct thread *thread = threads.lookup(&tid);
	u64 waker = bpf_get_current_pid_tgid();
	u64 *context;
	int zero = 0;

	if (!thread)
		return 0;
	context = irq_context.lookup(&zero);
	emit(RING_WAKING, waker, bpf_ktime_get_ns(), tid, context ? *context : 0, thread->tgid, waker >> 32);
	return 0;
}
