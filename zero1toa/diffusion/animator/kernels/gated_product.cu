// First product of a gated feed-forward layer with the gate, on Hopper's matrix units: values times GELU of gates, of which
// neither is written to memory.
//
// A block keeps the weights of 128 outputs, values' and gates', in shared memory and goes through 64 rows at a time. Two warp
// groups take turns: while one multiplies, the other is at its gates; a third brings the rows. In shared memory a row
// has 64 of its columns, 128 bytes, in the order that the matrix units' own swizzle of 128 bytes describes.

constexpr int BLOCKS = WIDTH / 64, OUTPUTS = 128;  // of 64 columns; outputs of a block
constexpr int ROWS = 64, STAGES = 7;               // rows of a tile; pieces held
constexpr int WEIGHTS = 2 * OUTPUTS * 128, PIECE = ROWS * 128;  // bytes of 64 columns
static_assert(BLOCKS * WEIGHTS + STAGES * (PIECE + 16) + 1024 == SHARED, "the launch gives as much shared memory as is used");

// 64 x 256 sums: 16 columns of rows with those of weights.
__device__ __forceinline__ void multiply(float (&d)[128], u64 a, u64 b, int more) {
  asm volatile(
      "{\n.reg .pred more;\nsetp.ne.b32 more, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32." KIND " {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
      "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
      "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
      "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
      "%128, %129, more, 1, 1, 0, 0;\n}\n"
      : EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24), EIGHT(32), EIGHT(40), EIGHT(48), EIGHT(56), EIGHT(64), EIGHT(72), EIGHT(80),
        EIGHT(88), EIGHT(96), EIGHT(104), EIGHT(112), EIGHT(120)
      : "l"(a), "l"(b), "r"(more));
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

// `x` [rows, WIDTH], `weight` [2 * outputs, WIDTH] of the values, then of the gates, `bias` [2 * outputs]; `out` [rows,
// outputs], its rows `stride` values apart. ROWS divides `rows`. Block i computes outputs i % (outputs / OUTPUTS) of its share
// of them.
extern "C" __global__ void __launch_bounds__(384, 1)
    gated_product(const unsigned short* x, const unsigned short* weight, const unsigned short* bias, unsigned short* out,
                  int rows, int outputs, int stride) {
  extern __shared__ unsigned char unaligned[];
  const u32 base = ((u32)__cvta_generic_to_shared(unaligned) + 1023) / 1024 * 1024;
  const Rows<WIDTH, ROWS, STAGES> pieces(base + BLOCKS * WEIGHTS);
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
  asm volatile("cp.async.wait_all;\n" ::: "memory");
  see_copies();
  __syncthreads();

  if (group == 2) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;\n");
    pieces.bring(x, begin_tile, end_tile, [](int) {});
    return;
  }

  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;\n");
  auto take_turn = [&] { asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory"); };
  auto pass_turn = [&] { asm volatile("bar.arrive %0, 256;" ::"r"(2 - group) : "memory"); };
  if (group == 1) pass_turn();
  const int quarter = lane % 4;
  u32 shifts[2][OUTPUTS / 8];  // a pair of each 8 columns, of values and gates
#pragma unroll
  for (int i = 0; i < OUTPUTS / 8; ++i) {
    const unsigned short* from = bias + column + i / 4 * 32 + 8 * quarter + i % 4 * 2;
    shifts[0][i] = *(const u32*)from;
    shifts[1][i] = *(const u32*)(from + outputs);
  }
  float sums[OUTPUTS];
  for (int tile = begin_tile + group; tile < end_tile; tile += 2) {
    take_turn();
    const auto multiply_columns = [&](u64 rows, int block, int step) {
      multiply(sums, rows, describe(base + block * WEIGHTS + 32 * step), block + step);
    };
    pieces.multiply((tile - begin_tile) * BLOCKS, multiply_columns, pass_turn);

    unsigned short* to = out + ((long)tile * ROWS + warp * 16 + lane / 4) * stride + column + 8 * quarter;
#pragma unroll
    for (int four = 0; four < OUTPUTS / 32; ++four)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        u32 pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at = 4 * four + i;
          const float2 shift = unpack(shifts[0][at]), gate_shift = unpack(shifts[1][at]);
          const float* values = sums + 4 * at + 2 * half;
          const float* gates = values + OUTPUTS / 2;
          pairs[i] = pack(gated(values[0] + shift.x, gates[0] + gate_shift.x),
                          gated(values[1] + shift.y, gates[1] + gate_shift.y));
        }
        *(uint4*)(to + 8 * half * (long)stride + 32 * four) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
      }
  }
}
