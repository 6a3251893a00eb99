/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * Which threads only waited while they were on a CPU?
 *
 * A spin loop executes PAUSE (Intel SDM, volume 2): at each tick of a clock, a thread whose instruction pointer is next
 * to one spins, whichever library's loop it is.
 */

#define SPIN_LOOP_BYTES 16

int on_clock(struct bpf_perf_event_data *ctx)
{
	u8 code[2 * SPIN_LOOP_BYTES];
	u32 tid;

	if (!current_thread(&tid) || bpf_probe_read_user(code, sizeof(code), (void *)ctx->regs.ip - SPIN_LOOP_BYTES))
		return 0;
#pragma unroll
	for (u32 i = 0; i + 1 < sizeof(code); i++) {
		if (code[i] == 0xf3 && code[i + 1] == 0x90) {
			emit(RING_SPIN, tid, bpf_ktime_get_ns(), SPIN_PERIOD_NS, 0, 0, 0);
			return 0;
		}
	}
	return 0;
}
