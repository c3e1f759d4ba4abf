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
// Waits until this thread's copies are there, for the matrix units as well, which read by another way than threads do. The thread
// that copies sees to that: one that multiplies would wait for the results, too, that it has written before.
__device__ __forceinline__ void finish_copies() {
  asm volatile("cp.async.wait_all;\nfence.proxy.async.shared::cta;\n" ::: "memory");
}

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

// Rows of a matrix on their way through shared memory: pieces of ROWS rows and 64 columns, STAGES of them, a barrier for each that
// is full and one for each that is empty. Four warps bring those of tiles of ROWS rows, COLUMNS / 64 to a tile, each warp always
// into the same stages, since a barrier does not tell a phase from the one two before. `warps` of others multiply them, and wait for
// their sums BEHIND pieces later: 1 lets the matrix units go on meanwhile, 0 makes room for the next piece earlier.
template <int COLUMNS, int ROWS, int STAGES, int BEHIND>
struct Rows {
  static constexpr int BLOCKS = COLUMNS / 64, PIECE = ROWS * 128;  // pieces of a tile; bytes of one
  u32 pieces, full, empty;

  __device__ __forceinline__ explicit Rows(u32 start) : pieces(start), full(start + STAGES * PIECE), empty(full + 8 * STAGES) {}

  __device__ __forceinline__ void begin(int warps) const {  // by one thread
    for (int i = 0; i < STAGES; ++i) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(full + 8 * i), "r"(1));
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(empty + 8 * i), "r"(warps));
    }
  }

  // `x` [rows, COLUMNS]; `announce` learns of each tile before it is brought.
  template <class Announce>
  __device__ __forceinline__ void bring(const unsigned short* x, int begin_tile, int end_tile, Announce announce) const {
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, count = (end_tile - begin_tile) * BLOCKS;
    const unsigned short* from = x + ((long)begin_tile * ROWS + lane / 8) * COLUMNS + lane % 8 * 8;
    for (int piece = 0; piece < count; ++piece) {
      const int stage = piece % STAGES, tile = piece / BLOCKS;
      if (stage % 4 != warp) continue;
      if (lane == 0 && piece % BLOCKS == 0) announce(begin_tile + tile);
      wait(empty + 8 * stage, (piece / STAGES & 1) ^ 1);
      const unsigned short* start = from + (long)tile * ROWS * COLUMNS + piece % BLOCKS * 64;
#pragma unroll
      for (int i = 0; i < ROWS / 4; ++i)
        copy(pieces + stage * PIECE + place(4 * i + lane / 8, lane % 8), start + 4 * i * COLUMNS);
      finish_copies();
      __syncwarp();
      if (lane == 0) arrive(full + 8 * stage);
    }
  }

  // Sums of the tile whose first piece is `first`: `multiply` submits those of 16 columns, given where these are, the block of 64,
  // the step within it. `pass_turn` is called when all are submitted.
  template <class Multiply, class PassTurn>
  __device__ __forceinline__ void multiply(int first, Multiply multiply, PassTurn pass_turn) const {
    const bool tells = threadIdx.x % 32 == 0;
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block) {
      const int stage = (first + block) % STAGES;
      wait(full + 8 * stage, (first + block) / STAGES & 1);
      asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
#pragma unroll
      for (int step = 0; step < 4; ++step) multiply(describe(pieces + stage * PIECE + 32 * step), block, step);
      asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
      if (block == BLOCKS - 1) pass_turn();
      asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(BEHIND) : "memory");
      if (tells && block >= BEHIND) arrive(empty + 8 * ((first + block - BEHIND) % STAGES));
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;\n" ::: "memory");
#pragma unroll
    for (int block = BLOCKS - BEHIND; block < BLOCKS; ++block)
      if (tells) arrive(empty + 8 * ((first + block) % STAGES));
  }
};
#endif
