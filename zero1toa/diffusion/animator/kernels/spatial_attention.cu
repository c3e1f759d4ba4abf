// Self-attention in which pictures of a clip also read a reference's keys and values, on Hopper's matrix units.
//
// Heads of width 40, as Stable Diffusion has at its finest resolution: libraries compute them as 64. `arrange` brings keys
// and values into tiles that shared memory takes as they are. A block of `attend` takes 256 queries of one head of one
// picture, 64 for each of four warp groups; a thread of a fifth group has the tiles copied. Softmax takes longer than the
// products, so the groups take turns at the matrix units: while one multiplies, the others are at their softmax. A turn is
// the scores of the next keys and the weighted values of the last ones.
//
// A tile has its keys' columns in chunks of 8, 16 bytes: for each chunk all keys, COLUMN bytes, of which 8 are a core that
// a descriptor without swizzling describes. The columns that pad keys and values to the next multiple of 16 stay in shared
// memory: zeros beside the keys, ones beside the values, whose weighted sum is what softmax divides by.

constexpr int HEAD = 40, CHUNKS = HEAD / 8, WIDE = HEAD + 8;  // chunks of 8 values, 16 bytes; columns with the padding
constexpr int KEYS = 64, STAGES = 16;                         // keys of a tile; tiles held
constexpr int READERS = 4, ROWS = 64 * READERS;               // groups that compute; queries of a block
constexpr int STEPS = (HEAD + 15) / 16;                       // of the scores' product, over columns padded with zeros
constexpr int CORE = 128, COLUMN = 16 * KEYS, PART = CHUNKS * COLUMN, PADDED = PART + COLUMN, STAGE = 2 * PADDED;
static_assert(STAGES * (STAGE + 16) == SHARED, "the launch gives as much shared memory as is used");

// 64 x 64 scores: 16 columns of queries with those of keys.
__device__ __forceinline__ void score(float (&d)[32], const u32 (&a)[4], u64 b, int more) {
  asm volatile(
      "{\n.reg .pred more;\nsetp.ne.b32 more, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." KIND " {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "{%32, %33, %34, %35}, %36, more, 1, 1, 0;\n}\n"
      : EIGHT(0), EIGHT(8), EIGHT(16), EIGHT(24)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(more));
}

// 64 x 48 outputs: weights of 16 keys with their values, which lie along the other dimension.
__device__ __forceinline__ void mix(float (&d)[24], const u32 (&a)[4], u64 b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n48k16.f32." KIND " {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23}, "
      "{%24, %25, %26, %27}, %28, 1, 1, 1, 1;\n"
      : EIGHT(0), EIGHT(8), EIGHT(16)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ __forceinline__ u64 describe(u32 address, int leading, int stride) {
  return (u64)((address & 0x3ffff) >> 4) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32;
}
__device__ __forceinline__ void begin() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ __forceinline__ void submit() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
__device__ __forceinline__ void finish() { asm volatile("wgmma.wait_group.sync.aligned 0;\n" ::: "memory"); }
__device__ __forceinline__ void expect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy(u32 to, const void* from, u32 bytes, u32 barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(to),
               "l"(from), "r"(bytes), "r"(barrier)
               : "memory");
}
__device__ __forceinline__ float power(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ void score_tile(float (&scores)[KEYS / 2], const u32 (&q)[STEPS][4], u32 keys) {
#pragma unroll
  for (int step = 0; step < STEPS; ++step)
    score(scores, q[step], describe(keys + 2 * step * COLUMN, COLUMN, CORE), step);
}
__device__ __forceinline__ void mix_tile(float (&out)[WIDE / 2], const u32 (&weights)[KEYS / 16][4], u32 values) {
#pragma unroll
  for (int step = 0; step < KEYS / 16; ++step)
    mix(out, weights[step], describe(values + 2 * step * CORE, CORE, COLUMN));
}

// A thread holds two rows of scores, of each the same quarter of the columns: pairs of neighbours, of one row and the other
// in turn.
__device__ __forceinline__ void find_highest(const float (&scores)[KEYS / 2], float (&top)[2]) {
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    float tops[4];  // several at once: each step waits for the one before
#pragma unroll
    for (int i = 0; i < KEYS / 8; ++i) {
      const float pair = fmaxf(scores[4 * i + 2 * row], scores[4 * i + 2 * row + 1]);
      tops[i % 4] = i < 4 ? pair : fmaxf(tops[i % 4], pair);
    }
    top[row] = fmaxf(fmaxf(tops[0], tops[1]), fmaxf(tops[2], tops[3]));
  }
}
__device__ __forceinline__ void of_whole_rows(float (&top)[2]) {
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    top[row] = fmaxf(top[row], __shfl_xor_sync(0xffffffffu, top[row], 1));
    top[row] = fmaxf(top[row], __shfl_xor_sync(0xffffffffu, top[row], 2));
  }
}

// Scores to weights, relative to `high` of their row.
__device__ __forceinline__ void weigh(const float (&scores)[KEYS / 2], u32 (&weights)[KEYS / 16][4],
                                      const float (&high)[2], float factor) {
  const float base[2] = {high[0] * factor, high[1] * factor};
#pragma unroll
  for (int pair = 0; pair < KEYS / 4; ++pair) {
    const float offset = -base[pair % 2];
    weights[pair / 4][pair % 4] =
        pack(power(fmaf(scores[2 * pair], factor, offset)), power(fmaf(scores[2 * pair + 1], factor, offset)));
  }
}

// `qkv` [pictures, tokens, 3, heads, HEAD]; `tiles` of its keys and values, and `others` of the reference's, which the first
// `split` pictures read, `frames` of each clip: both as `arrange` makes them, of `tokens` and `more` keys, which KEYS divides;
// `out` [pictures, tokens, heads, HEAD]. With `apart` above 0, what a picture reads of itself alone, which it reads first,
// goes to the picture so many further on. A block for each ROWS queries, and for each head of each picture.
extern "C" __global__ void __launch_bounds__(128 * (READERS + 1), 1)
    attend(const unsigned short* qkv, const unsigned char* tiles, const unsigned char* others, unsigned short* out,
           int tokens, int more, int heads, int split, int frames, int apart, float factor) {
  extern __shared__ __align__(128) unsigned char memory[];
  const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  const int head = blockIdx.y % heads, picture = blockIdx.y / heads;
  const int channels = heads * HEAD, own = tokens / KEYS;
  const bool joined = picture < split;
  const int count = own + (joined ? more / KEYS : 0);
  const u32 base = (u32)__cvta_generic_to_shared(memory);
  const u32 full = base + STAGES * STAGE, empty = full + 8 * STAGES;  // barriers of each tile held

  if (threadIdx.x == 0)
    for (int i = 0; i < STAGES; ++i) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(full + 8 * i), "r"(1));
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(empty + 8 * i), "r"(4 * READERS));
    }
  for (int i = threadIdx.x; i < STAGES * KEYS; i += blockDim.x) {
    unsigned char* padding = memory + i / KEYS * STAGE + PART + i % KEYS * 16;
    *(uint4*)padding = make_uint4(0, 0, 0, 0);
    *(uint4*)(padding + PADDED) = make_uint4(ONE, 0, 0, 0);
  }
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");  // the matrix units read what was written
  __syncthreads();

  if (group == READERS) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;\n");
    if (threadIdx.x == 128 * READERS) {
      const long clip = joined ? picture / frames : 0;
      const unsigned char* mine = tiles + ((long)picture * heads + head) * own * 2 * PART;
      const unsigned char* reference = others + (clip * heads + head) * (more / KEYS) * 2 * PART;
      for (int tile = 0; tile < count; ++tile) {
        const int stage = tile % STAGES;
        const unsigned char* from = tile < own ? mine + (long)tile * 2 * PART : reference + (long)(tile - own) * 2 * PART;
        wait(empty + 8 * stage, (tile / STAGES & 1) ^ 1);
        expect(full + 8 * stage, 2 * PART);
        copy(base + stage * STAGE, from, PART, full + 8 * stage);
        copy(base + stage * STAGE + PADDED, from + PART, PART, full + 8 * stage);
      }
    }
    return;
  }

  asm volatile("setmaxnreg.inc.sync.aligned.u32 112;\n");
  const int first = blockIdx.x * ROWS + group * 64 + warp * 16 + lane / 4;  // this thread's rows: this and 8 on
  const unsigned short* queries = qkv + (long)picture * tokens * 3 * channels + head * HEAD;
  u32 q[STEPS][4];
#pragma unroll
  for (int step = 0; step < STEPS; ++step)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = first + i % 2 * 8, column = step * 16 + i / 2 * 8 + lane % 4 * 2;
      const bool inside = column < HEAD && row < tokens;
      q[step][i] = inside ? *(const u32*)(queries + (long)row * 3 * channels + column) : 0u;
    }
  float result[WIDE / 2] = {}, scores[KEYS / 2], high[2] = {-1e30f, -1e30f}, top[2];
  u32 weights[KEYS / 16][4];
  const int mine = 1 + group, next = 1 + (group + 1) % READERS;
  auto take_turn = [&] { asm volatile("bar.sync %0, 256;" ::"r"(mine) : "memory"); };
  auto pass_turn = [&] { asm volatile("bar.arrive %0, 256;" ::"r"(next) : "memory"); };
  if (group == READERS - 1) pass_turn();

  // Weights may be this much above one before they are taken relative to a new highest score, which is seldom: nothing
  // waits for it, and what was summed before is left as it is.
  const float limit = 8.f / factor;
  auto raise = [&] {
    of_whole_rows(top);
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float higher = fmaxf(high[row], top[row]), rescale = power((high[row] - higher) * factor);
      high[row] = higher;
#pragma unroll
      for (int i = 0; i < WIDE / 8; ++i) {
        result[4 * i + 2 * row] *= rescale;
        result[4 * i + 2 * row + 1] *= rescale;
      }
    }
    weigh(scores, weights, high, factor);
  };
  for (int tile = 0, end; tile < count; tile = end) {
    end = apart && tile < own ? own : count;
    wait(full + 8 * (tile % STAGES), tile / STAGES & 1);
    take_turn();
    begin();
    score_tile(scores, q, base + tile % STAGES * STAGE);
    submit();
    pass_turn();
    finish();
    find_highest(scores, top);
    raise();
    for (; tile < end - 1; ++tile) {
      const int stage = tile % STAGES, following = (tile + 1) % STAGES;
      wait(full + 8 * following, (tile + 1) / STAGES & 1);
      take_turn();
      begin();
      score_tile(scores, q, base + following * STAGE);
      submit();
      mix_tile(result, weights, base + stage * STAGE + PADDED);
      submit();
      pass_turn();
      finish();
      if (lane == 0) arrive(empty + 8 * stage);
      find_highest(scores, top);
      weigh(scores, weights, high, factor);
      if (__any_sync(0xffffffffu, top[0] > high[0] + limit || top[1] > high[1] + limit)) raise();
    }
    take_turn();
    begin();
    mix_tile(result, weights, base + tile % STAGES * STAGE + PADDED);
    submit();
    pass_turn();
    finish();
    if (lane == 0) arrive(empty + 8 * (tile % STAGES));
    const int to_picture = end < count ? picture + apart : picture;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float total = __shfl_sync(0xffffffffu, result[HEAD / 2 + 2 * half], lane / 4 * 4);  // the column of ones
      const float inverse = 1.f / total;
      const int row = first + 8 * half;
      if (row >= tokens) continue;
      unsigned short* to = out + ((long)to_picture * tokens + row) * channels + head * HEAD + lane % 4 * 2;
#pragma unroll
      for (int i = 0; i < CHUNKS; ++i)
        *(u32*)(to + 8 * i) = pack(result[4 * i + 2 * half] * inverse, result[4 * i + 2 * half + 1] * inverse);
    }
  }
}

// Keys and values [pictures, tokens, heads, HEAD], whose tokens lie `stride` times 16 bytes apart, to tiles [pictures,
// heads, tokens / KEYS, keys or values, CHUNKS, KEYS, 8]. A block for each tile of each picture.
extern "C" __global__ void __launch_bounds__(640)
    arrange(const uint4* keys, const uint4* values, uint4* out, int tokens, int heads, int stride) {
  const int vectors = heads * CHUNKS, row = threadIdx.x % 8, tile = blockIdx.x, picture = blockIdx.y;
  for (int at = threadIdx.x / 8; at < 2 * vectors; at += blockDim.x / 8) {
    const int part = at / vectors, vector = at % vectors, head = vector / CHUNKS, chunk = vector % CHUNKS;
    const uint4* from = (part ? values : keys) + ((long)picture * tokens + tile * KEYS + row) * stride + vector;
    const long place = (((long)picture * heads + head) * gridDim.x + tile) * 2 + part;
    uint4* to = out + (place * CHUNKS + chunk) * KEYS + row;
    uint4 held[KEYS / 8];
#pragma unroll
    for (int i = 0; i < KEYS / 8; ++i) held[i] = from[(long)8 * i * stride];
#pragma unroll
    for (int i = 0; i < KEYS / 8; ++i) to[8 * i] = held[i];
  }
}
