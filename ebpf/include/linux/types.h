/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/* The kernel's integer types, as far as bcc's preamble and our programs use them. */
#ifndef SLMTRACE_LINUX_TYPES_H
#define SLMTRACE_LINUX_TYPES_H

typedef signed char __s8, s8;
typedef unsigned char __u8, u8;
typedef signed short __s16, s16;
typedef unsigned short __u16, u16;
typedef signed int __s32, s32;
typedef unsigned int __u32, u32;
typedef signed long long __s64, s64;
typedef unsigned long long __u64, u64;
typedef __u16 __le16, __be16, __sum16;
typedef __u32 __le32, __be32, __wsum;
typedef __u64 __le64, __be64;
typedef _Bool bool;
typedef unsigned long size_t;
typedef unsigned long uintptr_t;
typedef int pid_t;

#define __aligned_u64 __u64 __attribute__((aligned(8)))
#define __always_inline inline __attribute__((always_inline))
#define NULL ((void *)0)
#define true 1
#define false 0

#endif
