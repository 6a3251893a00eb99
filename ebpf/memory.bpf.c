/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* When did the kernel compact or reclaim memory, on any thread, and what did khugepaged and migration do? */

struct memory_work {
	u64 start_ns;
	u64 detail;
};

/* Work in flight, by thread; compaction may happen inside reclaim. */
BPF_HASH(compacting, u32, struct memory_work, 1024);
BPF_HASH(reclaiming, u32, struct memory_work, 1024);

/* A thread outside the tree is named, for its records stand on a track of its own. */
static __always_inline void name_outsider(u32 tid)
{
	if (!threads.lookup(&tid))
		emit_with_comm(RING_NAME, tid, bpf_get_current_pid_tgid() >> 32, NAME_OF_OUTSIDER);
}

int on_compaction_begin(void *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct memory_work work = {.start_ns = bpf_ktime_get_ns()};

	compacting.update(&tid, &work);
	return 0;
}

int on_compaction_end(void *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct memory_work *work = compacting.lookup(&tid);

	if (!work)
		return 0;
	name_outsider(tid);
	emit(RING_COMPACTION, tid, work->start_ns, FIELD(u32, mm_compaction_end, status),
	     bpf_ktime_get_ns() - work->start_ns, 0, 0);
	compacting.delete(&tid);
	return 0;
}

static __always_inline int reclaim_begins(u64 order)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct memory_work work = {.start_ns = bpf_ktime_get_ns(), .detail = order};

	reclaiming.update(&tid, &work);
	return 0;
}

static __always_inline int reclaim_ends(u64 reclaimed_pages)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct memory_work *work = reclaiming.lookup(&tid);

	if (!work)
		return 0;
	name_outsider(tid);
	emit(RING_RECLAIM, tid, work->start_ns, work->detail, bpf_ktime_get_ns() - work->start_ns, reclaimed_pages, 0);
	reclaiming.delete(&tid);
	return 0;
}

int on_reclaim_begin(void *ctx)
{
	return reclaim_begins(FIELD(u32, mm_vmscan_direct_reclaim_begin, order));
}

int on_reclaim_end(void *ctx)
{
	return reclaim_ends(FIELD(u64, mm_vmscan_direct_reclaim_end, nr_reclaimed));
}

#if defined(OFF_mm_vmscan_memcg_reclaim_begin_order) && defined(OFF_mm_vmscan_memcg_reclaim_end_nr_reclaimed)
int on_cgroup_reclaim_begin(void *ctx)
{
	return reclaim_begins(FIELD(u32, mm_vmscan_memcg_reclaim_begin, order));
}

int on_cgroup_reclaim_end(void *ctx)
{
	return reclaim_ends(FIELD(u64, mm_vmscan_memcg_reclaim_end, nr_reclaimed));
}
#endif

int on_kswapd_wake(void *ctx)
{
	return reclaim_begins(FIELD(u32, mm_vmscan_kswapd_wake, order));
}

int on_kswapd_sleep(void *ctx)
{
	return reclaim_ends(0);
}

#ifdef OFF_mm_khugepaged_scan_pmd_status
int on_khugepaged_scan(void *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();

	name_outsider(tid);
	/* One call looks at the pages of one huge page. */
	emit(RING_KHUGEPAGED, tid, bpf_ktime_get_ns(), FIELD(u32, mm_khugepaged_scan_pmd, status),
	     HUGE_PAGE_BYTES / PAGE_BYTES, 0, 0);
	return 0;
}
#endif

int on_migrate_pages(void *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();

	name_outsider(tid);
	emit(RING_MIGRATE, tid, bpf_ktime_get_ns(), FIELD(u64, mm_migrate_pages, succeeded),
	     FIELD(u64, mm_migrate_pages, failed), FIELD(u32, mm_migrate_pages, mode),
	     FIELD(u32, mm_migrate_pages, reason));
	return 0;
}
