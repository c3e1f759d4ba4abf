// A product, added to tokens, and the layer normalisation of the sums, on Hopper's matrix units: what is multiplied is not
// written to memory in between.
//
// A block keeps all weights in shared memory and goes through 64 rows at a time. Two warp groups take turns: while one multiplies,
// the other is at its sums, or at the tokens that its next sums begin with; a third brings the rows. In shared memory a row has 64
// of its columns, 128 bytes, in the order that the matrix units' own swizzle of 128 bytes describes.

constexpr int BLOCKS = WIDTH / 64, PART = WIDTH / 2;  // blocks of 64 columns; outputs of one instruction
constexpr int ROWS = 64, STAGES = 3;                  // rows of a tile; pieces held
constexpr int WEIGHTS = WIDTH * 128, PIECE = ROWS * 128;  // bytes of 64 columns
constexpr int VECTORS = WIDTH / 8, FOURS = WIDTH / 32;    // of a row; of 32 columns, which four threads share
constexpr int KEPT = 3 * VECTORS * 16;                    // bytes of bias, gains and offsets
static_assert(BLOCKS * WEIGHTS + STAGES * (PIECE + 16) + KEPT == SHARED, "the launch gives as much shared memory as is used");
static_assert(PART == 160, "the width of the instruction");

// 64 x 160 sums: 16 columns of rows with those of weights.
__device__ __forceinline__ void multiply(float (&d)[80], u64 a, u64 b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n160k16.f32." KIND " {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
      "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79}, "
      "%80, %81, 1, 1, 1, 0, 0;\n"
      : EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24), EIGHT(32), EIGHT(40), EIGHT(48), EIGHT(56), EIGHT(64), EIGHT(72)
      : "l"(a), "l"(b));
}

// In the order in which it is written: brought forward by the compiler, what is read would not find room in registers.
__device__ __forceinline__ uint4 read(const uint4* from) {
  uint4 vector;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(vector.x), "=r"(vector.y), "=r"(vector.z), "=r"(vector.w) : "l"(from));
  return vector;
}

__device__ __forceinline__ float2 two_of(const uint4& vector, int pair) {
  return unpack(pair == 0 ? vector.x : pair == 1 ? vector.y : pair == 2 ? vector.z : vector.w);
}

__device__ __forceinline__ float of_four_threads(float sum) {
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  return sum + __shfl_xor_sync(0xffffffffu, sum, 2);
}

// `x` [rows, WIDTH], `weight` [WIDTH, WIDTH], `bias` [WIDTH]. Left out where null: `tokens` [rows, WIDTH], to which the product is
// added, `constant`, which has one row for every `period` rows, and `places`, which are added to what is normed, by frame of
// `pixels` rows. `sums` may be `tokens`; its rows lie `stride` times 8 columns apart, and where they are wider than what is summed,
// a one and seven zeros follow. ROWS divides `rows`, `period` and `pixels`.
extern "C" __global__ void __launch_bounds__(384, 1)
    product_norm(const unsigned short* x, const unsigned short* weight, const uint4* bias, const uint4* tokens,
                 const uint4* constant, const uint4* gain, const uint4* offset, const uint4* places, uint4* sums, int stride,
                 uint4* normed, int rows, int period, int pixels, int frames, float epsilon) {
  extern __shared__ __align__(1024) unsigned char memory[];
  const u32 base = (u32)__cvta_generic_to_shared(memory);
  const Rows<WIDTH, ROWS, STAGES, 0> pieces(base + BLOCKS * WEIGHTS);
  const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int begin_tile = (u32)blockIdx.x * (rows / ROWS) / gridDim.x;
  const int end_tile = (u32)(blockIdx.x + 1) * (rows / ROWS) / gridDim.x;

  if (threadIdx.x == 0) pieces.begin(4);
  uint4* const kept = (uint4*)(memory + SHARED - KEPT);
  for (int i = threadIdx.x; i < VECTORS; i += blockDim.x) {
    kept[i] = bias[i];
    kept[VECTORS + i] = gain[i];
    kept[2 * VECTORS + i] = offset[i];
  }
  for (int i = threadIdx.x; i < WIDTH * VECTORS; i += blockDim.x) {
    const int chunk = i % VECTORS, row = i / VECTORS;
    copy(base + chunk / 8 * WEIGHTS + place(row, chunk % 8), weight + (long)spread(row) * WIDTH + chunk * 8);
  }
  finish_copies();
  __syncthreads();

  if (group == 2) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;\n");
    pieces.bring(x, begin_tile, end_tile, [&](int tile) {
      if (tokens)  // its sums will ask for them
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;\n" ::"l"(tokens + (long)tile * ROWS * VECTORS),
                     "n"(ROWS * WIDTH * 2));
    });
    return;
  }

  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;\n");
  auto take_turn = [&] { asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory"); };
  auto pass_turn = [&] { asm volatile("bar.arrive %0, 256;" ::"r"(2 - group) : "memory"); };
  if (group == 1) pass_turn();
  const int quarter = lane % 4;
  const uint4 zeros = make_uint4(0, 0, 0, 0);
  float values[2][PART / 2];  // of a row and the one 8 further on, in turn: of each 32 columns 8 of both
  auto eight = [&](int four, int half) { return values[four / (FOURS / 2)] + four % (FOURS / 2) * 16 + 2 * half; };
  for (int tile = begin_tile + group; tile < end_tile; tile += 2) {
    const int row = tile * ROWS + warp * 16 + lane / 4;
    const uint4* own = tokens + (long)row * VECTORS + quarter;
    const uint4* fixed = constant + tile * ROWS / period * VECTORS + quarter;
    uint4 given[2 * FOURS];  // all asked for before the first is needed
#pragma unroll
    for (int i = 0; i < 2 * FOURS; ++i) given[i] = tokens ? read(own + i % 2 * 8 * VECTORS + i / 2 * 4) : zeros;
#pragma unroll
    for (int four = 0; four < FOURS; ++four) {
      const uint4 biases = kept[quarter + 4 * four], constants = constant ? read(fixed + 4 * four) : zeros;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 b = two_of(biases, i), c = two_of(constants, i);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float2 token = two_of(given[2 * four + half], i);
          eight(four, half)[4 * i] = token.x + (b.x + c.x);
          eight(four, half)[4 * i + 1] = token.y + (b.y + c.y);
        }
      }
#pragma unroll
      for (int i = 0; i < 16; ++i) asm volatile("" : "+f"(eight(four, 0)[i]));  // here, and not when it is this group's turn
    }
    take_turn();
    const auto multiply_columns = [&](u64 rows, int block, int step) {
#pragma unroll
      for (int part = 0; part < 2; ++part)
        multiply(values[part], rows, describe(base + block * WEIGHTS + part * PART * 128 + 32 * step));
    };
    pieces.multiply((tile - begin_tile) * BLOCKS, multiply_columns, pass_turn);

    uint4* to = sums + (long)row * stride + quarter;
    float total[2] = {};
#pragma unroll
    for (int four = 0; four < FOURS; ++four)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float* mine = eight(four, half);
        u32 pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          total[half] += mine[4 * i] + mine[4 * i + 1];
          pairs[i] = pack(mine[4 * i], mine[4 * i + 1]);
        }
        to[8 * half * stride + 4 * four] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
      }
    if (stride > VECTORS && quarter < 2) sums[(row + 8l * quarter) * stride + VECTORS] = make_uint4(ONE, 0, 0, 0);

    float scale[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float mean = of_four_threads(total[half]) * (1.f / WIDTH);
      float square[2] = {};  // each sum waits for the one before
#pragma unroll
      for (int i = 0; i < PART / 2; ++i) {
        const int at = i / 2 * 4 + i % 2 + 2 * half;
        float& value = values[at / (PART / 2)][at % (PART / 2)];
        value -= mean;
        square[i % 2] = fmaf(value, value, square[i % 2]);
      }
      scale[half] = rsqrtf(of_four_threads(square[0] + square[1]) * (1.f / WIDTH) + epsilon);
    }
    const uint4* placed = places + tile * ROWS / pixels % frames * VECTORS + quarter;
    to = normed + (long)row * VECTORS + quarter;
#pragma unroll
    for (int four = 0; four < FOURS; ++four) {
      const uint4 gains = kept[VECTORS + quarter + 4 * four], offsets = kept[2 * VECTORS + quarter + 4 * four];
      const uint4 frame = places ? read(placed + 4 * four) : zeros;
      float2 g[4], shift[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 b = two_of(offsets, i), c = two_of(frame, i);
        g[i] = two_of(gains, i);
        shift[i] = make_float2(b.x + c.x, b.y + c.y);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float* mine = eight(four, half);
        u32 pairs[4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
          pairs[i] = pack(fmaf(mine[4 * i] * scale[half], g[i].x, shift[i].x),
                          fmaf(mine[4 * i + 1] * scale[half], g[i].y, shift[i].y));
        to[8 * half * VECTORS + 4 * four] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
      }
    }
  }
}
