// What kernels on Hopper's matrix units share: the kind of their operands, lists of eight sums, barriers in shared memory, and
// how operands and results are arranged.

#if __CUDA_ARCH__ >= 900
#if BFLOAT16
#define KIND "bf16.bf16"
#else
#define KIND "f16.f16"
#endif
#define EIGHT(i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])

__device__ __forceinline__ void wait(u32 barrier, u32 parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}\n" ::"r"(
          barrier),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(barrier) : "memory");
}
// A barrier learns of this thread's copies when they are there. The matrix units read what was copied by another way than
// threads do, so that whoever waits for it calls `see_copies` before they read.
__device__ __forceinline__ void arrive_with_copies(u32 barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];\n" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void see_copies() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }

// Rows of 64 columns, 128 bytes, in the order of the matrix units' swizzle of 128 bytes: what describes an operand of 16 columns,
// and where the eighth `chunk` of a row lies.
__device__ __forceinline__ u64 describe(u32 address) {
  return (u64)((address & 0x3ffff) >> 4) | 1ull << 16 | (u64)(1024 >> 4) << 32 | 1ull << 62;
}
__device__ __forceinline__ void copy(u32 to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ int place(int row, int chunk) { return row * 128 + (chunk ^ (row & 7)) * 16; }

// Of the sums of 32 columns, each of four threads holds a pair of every 8. With the rows of the second operand in this order the
// pairs are of 8 columns in a row, which a thread writes at once.
__device__ __forceinline__ int spread(int row) { return row / 32 * 32 + row % 8 / 2 * 8 + row % 32 / 8 * 2 + row % 2; }
#endif
