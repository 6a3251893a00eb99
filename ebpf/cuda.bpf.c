/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* Which rare functions of the CUDA driver were called, and how long did each take? Their cookies number them. */

struct driver_call {
	u32 tid;
	u32 function;
};

/* Starts of calls in flight; of those that never return, the oldest is forgotten. */
BPF_TABLE("lru_hash", struct driver_call, u64, driver_calls, MAX_THREADS);

int on_driver_call(struct pt_regs *ctx)
{
	struct driver_call call = {.function = bpf_get_attach_cookie(ctx)};
	u64 now_ns;

	if (!current_thread(&call.tid))
		return 0;
	now_ns = bpf_ktime_get_ns();
	driver_calls.update(&call, &now_ns);
	return 0;
}

int on_driver_return(struct pt_regs *ctx)
{
	struct driver_call call = {.function = bpf_get_attach_cookie(ctx)};
	u64 *start_ns;

	if (!current_thread(&call.tid))
		return 0;
	start_ns = driver_calls.lookup(&call);
	if (!start_ns)
		return 0;
	emit(RING_UPROBE, call.tid, *start_ns, call.function, bpf_ktime_get_ns() - *start_ns, 0, 0);
	driver_calls.delete(&call);
	return 0;
}
