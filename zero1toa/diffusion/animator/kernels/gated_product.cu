// First product of a gated feed-forward layer with the gate, on Hopper's matrix units: values times GELU of gates, of which
// neither is written to memory.
//
// A block keeps the weights of 128 outputs, values' and gates', in shared memory and goes through 64 rows at a time. Three warp
// groups take turns: while one multiplies, the others are at their gates, which take a group longer; a fourth brings the rows. In
// shared memory a row has 64 of its columns, 128 bytes, in the order that the matrix units' own swizzle of 128 bytes describes.

constexpr int BLOCKS = WIDTH / 64, OUTPUTS = 128;  // of 64 columns; outputs of a block
constexpr int ROWS = 64, STAGES = 8, GROUPS = 3;   // rows of a tile; pieces held; groups that multiply
constexpr int WEIGHTS = 2 * OUTPUTS * 128, PIECE = ROWS * 128;  // bytes of 64 columns
constexpr int KEPT = 2 * OUTPUTS * 2;              // bytes of biases
static_assert(BLOCKS * WEIGHTS + STAGES * (PIECE + 16) + KEPT + 1024 == SHARED, "the launch gives as much shared memory as is used");

// 64 x 128 sums: 16 columns of rows with those of weights.
__device__ __forceinline__ void multiply(float (&d)[64], u64 a, u64 b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." KIND " {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, 1, 1, 1, 0, 0;\n"
      : EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24), EIGHT(32), EIGHT(40), EIGHT(48), EIGHT(56)
      : "l"(a), "l"(b));
}

// `value` times GELU of `gate`: what the normal distribution's tail beyond |gate| leaves of it. The tail by a polynomial in t
// times the density, which is within 1e-7 (Abramowitz and Stegun, 7.1.26).
__device__ __forceinline__ float gated(float value, float gate) {
  float t, e;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(t) : "f"(fmaf(fabsf(gate), 0.23164189f, 1.f)));
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(gate * gate * -0.72134752f));
  float tail = fmaf(t, 0.53070271f, -0.72657602f);
  tail = fmaf(t, tail, 0.71070687f);
  tail = fmaf(t, tail, -0.14224837f);
  tail = fmaf(t, tail, 0.12741479f);
  return value * fmaf(-fabsf(gate), tail * t * e, fmaxf(gate, 0.f));
}

// Sums of 32 columns, of which this thread has 8 of two rows, begin with the biases that lie at `from`.
__device__ __forceinline__ void begin(float* sums, u32 from) {
  u32 pairs[4];
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(pairs[0]), "=r"(pairs[1]), "=r"(pairs[2]), "=r"(pairs[3])
               : "r"(from));
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack(pairs[i]);
    sums[4 * i] = sums[4 * i + 2] = pair.x;
    sums[4 * i + 1] = sums[4 * i + 3] = pair.y;
  }
}

// Two vectors of this thread's row and two of the row beside it, four threads away: changed into one of each row, side by side, so
// that eight threads write a row's 128 bytes at once.
__device__ __forceinline__ void swap(uint4& even, uint4& odd, bool second) {
  u32 *const evens = &even.x, *const odds = &odd.x;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const u32 got = __shfl_xor_sync(0xffffffffu, second ? evens[i] : odds[i], 4);
    evens[i] = second ? got : evens[i];
    odds[i] = second ? odds[i] : got;
  }
}

// `x` [rows, WIDTH], `weight` [2 * outputs, WIDTH] of the values, then of the gates, `bias` [2 * outputs]; `out` [rows,
// outputs], its rows `stride` values apart. ROWS divides `rows`. Block i computes outputs i % (outputs / OUTPUTS) of its share
// of them.
extern "C" __global__ void __launch_bounds__(128 * (GROUPS + 1), 1)
    gated_product(const unsigned short* x, const unsigned short* weight, const unsigned short* bias, unsigned short* out,
                  int rows, int outputs, int stride) {
  extern __shared__ unsigned char unaligned[];
  const u32 base = ((u32)__cvta_generic_to_shared(unaligned) + 1023) / 1024 * 1024;
  const Rows<WIDTH, ROWS, STAGES, 1> pieces(base + BLOCKS * WEIGHTS);
  const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int columns = outputs / OUTPUTS, column = blockIdx.x % columns * OUTPUTS;
  const long shares = gridDim.x / columns, share = blockIdx.x / columns;
  const int begin_tile = share * (rows / ROWS) / shares, end_tile = (share + 1) * (rows / ROWS) / shares;

  if (threadIdx.x == 0) pieces.begin(4);
  for (int i = threadIdx.x; i < BLOCKS * 2 * OUTPUTS * 8; i += blockDim.x) {
    const int chunk = i % (BLOCKS * 8), row = i / (BLOCKS * 8);
    const long from = row < OUTPUTS ? column + spread(row) : outputs + column + spread(row - OUTPUTS);
    copy(base + chunk / 8 * WEIGHTS + place(row, chunk % 8), weight + from * WIDTH + chunk * 8);
  }
  const u32 kept = base + BLOCKS * WEIGHTS + STAGES * (PIECE + 16);  // of values, then of gates
  if (threadIdx.x < KEPT / 16)
    copy(kept + threadIdx.x * 16, bias + threadIdx.x * 8 / OUTPUTS * outputs + column + threadIdx.x * 8 % OUTPUTS);
  finish_copies();
  __syncthreads();

  if (group == GROUPS) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;\n");
    pieces.bring(x, begin_tile, end_tile, [](int) {});
    return;
  }

  asm volatile("setmaxnreg.inc.sync.aligned.u32 160;\n");
  auto take_turn = [&] { asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory"); };
  auto pass_turn = [&] { asm volatile("bar.arrive %0, 256;" ::"r"(1 + (group + 1) % GROUPS) : "memory"); };
  if (group == GROUPS - 1) pass_turn();
  const int quarter = lane % 4;
  float values[OUTPUTS / 2], gates[OUTPUTS / 2];  // of each 8 columns a pair, of a row and of the one 8 further on
  for (int tile = begin_tile + group; tile < end_tile; tile += GROUPS) {
#pragma unroll
    for (int four = 0; four < OUTPUTS / 32; ++four) {
      begin(values + 16 * four, kept + (32 * four + 8 * quarter) * 2);
      begin(gates + 16 * four, kept + (OUTPUTS + 32 * four + 8 * quarter) * 2);
    }
    take_turn();
    const auto multiply_columns = [&](u64 rows, int block, int step) {
      multiply(values, rows, describe(base + block * WEIGHTS + 32 * step));
      multiply(gates, rows, describe(base + block * WEIGHTS + OUTPUTS * 128 + 32 * step));
    };
    pieces.multiply((tile - begin_tile) * BLOCKS, multiply_columns, pass_turn);

    const bool second = lane / 4 % 2;  // of two rows side by side
    unsigned short* to = out + ((long)tile * ROWS + warp * 16 + lane / 8 * 2) * stride + column + 8 * quarter + 32 * second;
#pragma unroll
    for (int eight = 0; eight < OUTPUTS / 64; ++eight)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint4 vectors[2];
#pragma unroll
        for (int four = 0; four < 2; ++four) {
          u32 pairs[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int at = 32 * eight + 16 * four + 4 * i + 2 * half;
            pairs[i] = pack(gated(values[at], gates[at]), gated(values[at + 1], gates[at + 1]));
          }
          vectors[four] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        }
        swap(vectors[0], vectors[1], second);
#pragma unroll
        for (int row = 0; row < 2; ++row) *(uint4*)(to + (8 * half + row) * (long)stride + 64 * eight) = vectors[row];
      }
  }
}
