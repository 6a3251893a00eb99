/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
#ifndef SLMTRACE_LINUX_BPF_COMMON_H
#define SLMTRACE_LINUX_BPF_COMMON_H
#define BPF_CLASS(code) ((code) & 0x07)
#endif
