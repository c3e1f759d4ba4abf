// Self-attention in which pictures of a clip also read a reference's keys and values, on Hopper's matrix units.
//
// Heads of width 40, as Stable Diffusion has at its finest resolution: libraries compute them as 64. A block takes 192
// queries of one head of one picture, 64 for each of three warp groups; a fourth group copies keys and values, straight
// from where the projection left them. Softmax takes longer than the products, so the groups take turns at the matrix
// units: while one multiplies, the others are at their softmax. A turn is the scores of the next keys and the weighted
// values of the last ones.
//
// In shared memory keys and values lie in cores of 8 rows of 16 bytes, which is what a descriptor without swizzling
// describes: K_OCTET and V_OCTET bytes on are the next 8 rows, CORE bytes on the next 8 columns.

constexpr int HEAD = 40, CHUNKS = HEAD / 8;        // chunks of 8 values, 16 bytes
constexpr int KEYS = 128, STAGES = 8, PENDING = 2;  // keys of a tile; tiles held; tiles on their way before one is awaited
constexpr int READERS = 3, ROWS = 64 * READERS;     // groups that compute; queries of a block
constexpr int STEPS = (HEAD + 15) / 16;             // of the scores' product, over columns padded with zeros
constexpr int CORE = 128, K_OCTET = (CHUNKS + 1) * CORE, V_OCTET = CHUNKS * CORE;
constexpr int K_TILE = KEYS / 8 * K_OCTET, STAGE = K_TILE + KEYS / 8 * V_OCTET;
static_assert(STAGES * (STAGE + 16) == SHARED, "the launch gives as much shared memory as is used");

#if BFLOAT16
#define KIND "bf16.bf16"
#else
#define KIND "f16.f16"
#endif
#define EIGHT(i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])

// 64 x 128 scores: 16 columns of queries with those of keys.
__device__ __forceinline__ void score(float (&d)[64], const u32 (&a)[4], u64 b, int more) {
  asm volatile(
      "{\n.reg .pred more;\nsetp.ne.b32 more, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." KIND " {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, more, 1, 1, 0;\n}\n"
      : EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24), EIGHT(32), EIGHT(40), EIGHT(48), EIGHT(56)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(more));
}

// 64 x 40 outputs: weights of 16 keys with their values, which lie along the other dimension.
__device__ __forceinline__ void mix(float (&d)[20], const u32 (&a)[4], u64 b, int more) {
  asm volatile(
      "{\n.reg .pred more;\nsetp.ne.b32 more, %25, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n40k16.f32." KIND " {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19}, "
      "{%20, %21, %22, %23}, %24, more, 1, 1, 1;\n}\n"
      : EIGHT(0), EIGHT(8), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(more));
}

__device__ __forceinline__ u64 describe(u32 address, int leading, int stride) {
  return (u64)((address & 0x3ffff) >> 4) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32;
}
__device__ __forceinline__ void begin() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ __forceinline__ void submit() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
template <int LEFT>
__device__ __forceinline__ void finish() {
  asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(LEFT) : "memory");
}
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
__device__ __forceinline__ void copy(u32 to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ float power(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ void score_tile(float (&scores)[KEYS / 2], const u32 (&q)[STEPS][4], u32 keys) {
#pragma unroll
  for (int step = 0; step < STEPS; ++step)
    score(scores, q[step], describe(keys + 2 * step * CORE, CORE, K_OCTET), step);
}
__device__ __forceinline__ void mix_tile(float (&out)[HEAD / 2], const u32 (&weights)[KEYS / 16][4], u32 values) {
#pragma unroll
  for (int step = 0; step < KEYS / 16; ++step)
    mix(out, weights[step], describe(values + 2 * step * V_OCTET, V_OCTET, CORE), 1);
}

// Scores of a tile to weights, relative to the highest score so far; a thread holds two rows. `rescale` brings what was
// summed before to the new highest score.
__device__ __forceinline__ void weigh(float (&scores)[KEYS / 2], float (&high)[2], float (&sum)[2], float (&rescale)[2],
                                      float factor) {
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    float tops[4];  // several at once: each step waits for the one before
#pragma unroll
    for (int i = 0; i < KEYS / 8; ++i) {
      const float pair = fmaxf(scores[4 * i + 2 * row], scores[4 * i + 2 * row + 1]);
      tops[i % 4] = i < 4 ? pair : fmaxf(tops[i % 4], pair);
    }
    float top = fmaxf(fmaxf(tops[0], tops[1]), fmaxf(tops[2], tops[3]));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(high[row], fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2)));
    rescale[row] = power((high[row] - top) * factor);
    high[row] = top;
    const float base = top * factor;
    float sums[4] = {};
#pragma unroll
    for (int i = 0; i < KEYS / 8; ++i)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& score = scores[4 * i + 2 * row + e];
        score = power(fmaf(score, factor, -base));
        sums[i % 4] += score;
      }
    sum[row] = sum[row] * rescale[row] + ((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
}
__device__ __forceinline__ void pack_tile(const float (&scores)[KEYS / 2], u32 (&weights)[KEYS / 16][4]) {
#pragma unroll
  for (int step = 0; step < KEYS / 16; ++step)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = 8 * step + 4 * (i / 2) + 2 * (i % 2);
      weights[step][i] = pack(scores[at], scores[at + 1]);
    }
}

// `qkv` [pictures, tokens, 3, heads, HEAD]; `keys`, `values` [clips, others, heads, HEAD] of the reference, which the first
// `split` pictures read, `frames` of each clip; `out` [pictures, tokens, heads, HEAD]. Numbers of tokens are divisible by
// KEYS. A block for each ROWS queries, and for each head of each picture.
extern "C" __global__ void __launch_bounds__(128 * (READERS + 1), 1)
    attend(const unsigned short* qkv, const unsigned short* keys, const unsigned short* values, unsigned short* out,
           int tokens, int others, int heads, int split, int frames, float factor) {
  extern __shared__ __align__(128) unsigned char memory[];
  const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int head = blockIdx.y % heads, picture = blockIdx.y / heads;
  const int channels = heads * HEAD, own_tiles = tokens / KEYS;
  const bool joined = picture < split;
  const int tiles = own_tiles + (joined ? others / KEYS : 0);
  const u32 base = (u32)__cvta_generic_to_shared(memory);
  const u32 full = base + STAGES * STAGE, empty = full + 8 * STAGES;  // barriers of each tile held
  const unsigned short* queries = qkv + (long)picture * tokens * 3 * channels + head * HEAD;

  if (threadIdx.x == 0)
    for (int i = 0; i < STAGES; ++i) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(full + 8 * i), "r"(128));
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(empty + 8 * i), "r"(4 * READERS));
    }
  // What pads the keys' columns is zero and stays so.
  for (int i = threadIdx.x; i < STAGES * KEYS; i += blockDim.x)
    *(uint4*)(memory + i / KEYS * STAGE + i % KEYS / 8 * K_OCTET + CHUNKS * CORE + i % 8 * 16) = make_uint4(0, 0, 0, 0);
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
  __syncthreads();

  if (group == READERS) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 32;\n");
    // A warp copies 32 rows: 8 rows of 4 neighbouring chunks at once, then the fifth chunk of all. Each 8 threads fill a core.
    int row[CHUNKS], column[CHUNKS];
    u32 to_keys[CHUNKS], to_values[CHUNKS];
#pragma unroll
    for (int i = 0; i < CHUNKS; ++i) {
      row[i] = 32 * warp + (i < 4 ? 8 * i + lane % 8 : lane);
      column[i] = i < 4 ? lane / 8 : 4;
      const int at = column[i] * CORE + row[i] % 8 * 16;
      to_keys[i] = base + row[i] / 8 * K_OCTET + at;
      to_values[i] = base + K_TILE + row[i] / 8 * V_OCTET + at;
    }
    const long clip = joined ? picture / frames : 0;
    for (int tile = 0; tile < tiles + PENDING; ++tile) {
      if (tile >= PENDING) {
        asm volatile("cp.async.wait_group %0;\n" ::"n"(PENDING - 1) : "memory");
        asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");  // the matrix units read what was copied
        arrive(full + 8 * ((tile - PENDING) % STAGES));
      }
      if (tile < tiles) {
        const int stage = tile % STAGES;
        wait(empty + 8 * stage, (tile / STAGES & 1) ^ 1);
        const bool own = tile < own_tiles;
        const int step = own ? 3 * channels : channels;
        const long first = own ? (long)tile * KEYS * step : (clip * others + (tile - own_tiles) * KEYS) * step + head * HEAD;
        const unsigned short* k = (own ? queries + channels : keys) + first;
        const unsigned short* v = (own ? queries + 2 * channels : values) + first;
#pragma unroll
        for (int i = 0; i < CHUNKS; ++i) {
          const int at = row[i] * step + 8 * column[i];
          copy(to_keys[i] + stage * STAGE, k + at);
          copy(to_values[i] + stage * STAGE, v + at);
        }
      }
      asm volatile("cp.async.commit_group;\n" ::: "memory");
    }
    return;
  }

  asm volatile("setmaxnreg.inc.sync.aligned.u32 160;\n");
  const int top = blockIdx.x * ROWS + group * 64 + warp * 16 + lane / 4;  // this thread's rows: this and 8 on
  u32 q[STEPS][4];
#pragma unroll
  for (int step = 0; step < STEPS; ++step)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = top + i % 2 * 8, column = step * 16 + i / 2 * 8 + lane % 4 * 2;
      const bool inside = column < HEAD && row < tokens;
      q[step][i] = inside ? *(const u32*)(queries + (long)row * 3 * channels + column) : 0u;
    }
  float result[HEAD / 2] = {}, scores[KEYS / 2], high[2] = {-1e30f, -1e30f}, sum[2] = {}, rescale[2];
  u32 weights[KEYS / 16][4];
  const int mine = 1 + group, next = 1 + (group + 1) % READERS;
  auto take_turn = [&] { asm volatile("bar.sync %0, 256;" ::"r"(mine) : "memory"); };
  auto pass_turn = [&] { asm volatile("bar.arrive %0, 256;" ::"r"(next) : "memory"); };
  if (group == READERS - 1) pass_turn();

  wait(full, 0);
  take_turn();
  begin();
  score_tile(scores, q, base);
  submit();
  pass_turn();
  finish<0>();
  weigh(scores, high, sum, rescale, factor);
  pack_tile(scores, weights);
  for (int tile = 0; tile < tiles - 1; ++tile) {
    const int stage = tile % STAGES, following = (tile + 1) % STAGES;
    wait(full + 8 * following, (tile + 1) / STAGES & 1);
    take_turn();
    begin();
    score_tile(scores, q, base + following * STAGE);
    submit();
    mix_tile(result, weights, base + stage * STAGE + K_TILE);
    submit();
    pass_turn();
    finish<1>();
    weigh(scores, high, sum, rescale, factor);
    finish<0>();
    if (lane == 0) arrive(empty + 8 * stage);
#pragma unroll
    for (int i = 0; i < HEAD / 2; ++i) result[i] *= rescale[i / 2 % 2];
    pack_tile(scores, weights);
  }
  take_turn();
  begin();
  mix_tile(result, weights, base + (tiles - 1) % STAGES * STAGE + K_TILE);
  submit();
  pass_turn();
  finish<0>();

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float total = sum[half];
    total += __shfl_xor_sync(0xffffffffu, total, 1);
    total += __shfl_xor_sync(0xffffffffu, total, 2);
    const float inverse = 1.f / total;
    const int row = top + 8 * half;
    if (row >= tokens) continue;
    unsigned short* to = out + ((long)picture * tokens + row) * channels + head * HEAD + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < CHUNKS; ++i)
      *(u32*)(to + 8 * i) = pack(result[4 * i + 2 * half] * inverse, result[4 * i + 2 * half + 1] * inverse);
  }
}
