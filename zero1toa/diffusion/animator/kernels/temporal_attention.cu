// Attention over the frames of a clip. The sequences are tiny, 16 frames for each of up to 100,000 pixels and heads,
// and are read and written once, so that memory sets the time. A block takes SHARE of the HEADS of one pixel, each warp
// one of them. Values come to shared memory and leave it as vectors of 16 bytes, neighbouring ones by neighbouring
// threads, and several blocks share a multiprocessor: some wait for memory while others compute. WIDTH (of a head),
// TILES (of 16 frames), HEADS and SHARE are the loader's.

constexpr int STEPS = WIDTH / 16, TAIL = WIDTH % 16 / 8;
constexpr int CHANNELS = HEADS * WIDTH, THREADS = 32 * SHARE, ROWS = 16 * TILES;

// In vectors: a block's queries (or keys, or values) of a frame, all three, and from frame to frame in shared memory.
// That is odd, so that a column of 8 frames lies in different banks, and has room for one vector more, because the half
// step that ends some widths reads like a whole one.
constexpr int PART = SHARE * WIDTH / 8, ROW = 3 * PART, PITCH = ROW + 1 + ROW % 2;

// Frames that a block's threads read, and write, at once, each thread one vector of one of them.
constexpr int READ = THREADS > ROW ? THREADS / ROW : 1, WRITTEN = THREADS > PART ? THREADS / PART : 1;

__device__ __forceinline__ void multiply(float (&sum)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#if BFLOAT16
#define KIND "bf16.bf16"
#else
#define KIND "f16.f16"
#endif
  asm("mma.sync.aligned.m16n8k16.row.col.f32." KIND ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Starts to bring a vector to shared memory, or puts zeros there.
__device__ __forceinline__ void fetch(u32 to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}

// 16 frames of 16 columns as four tiles: the first 8 frames and the others of the first 8 columns, then of the others.
__device__ __forceinline__ void load(u32 (&tiles)[4], u32 from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3]) : "r"(from) : "memory");
}
__device__ __forceinline__ void load_turned(u32 (&tiles)[4], u32 from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3]) : "r"(from) : "memory");
}

// [clips, frames, pixels, 3, HEADS, WIDTH] to [clips, frames, pixels, HEADS, WIDTH]. Six blocks of the sizes that the
// layers ask for fill a multiprocessor's shared memory.
extern "C" __global__ void __launch_bounds__(THREADS, 6) attend(const unsigned short* qkv, unsigned short* out,
                                                                int frames, int pixels, float factor) {
  extern __shared__ uint4 memory[];  // [ROWS, PITCH]
  const u32 shared = (u32)__cvta_generic_to_shared(memory);
  const int lane = threadIdx.x % 32, row = lane / 4, place = lane % 4, head = threadIdx.x / 32;
  const int pixel = blockIdx.x / (HEADS / SHARE), first_head = blockIdx.x % (HEADS / SHARE) * SHARE;
  const long begin = (long)blockIdx.y * frames * pixels + pixel, stride = (long)pixels * CHANNELS;

  int line = threadIdx.x / ROW;
  if (line < READ)
#pragma unroll
    for (int column = threadIdx.x % ROW; column < ROW; column += THREADS) {
      const unsigned short* from = qkv + 3 * (begin * CHANNELS + line * stride) + column / PART * CHANNELS +
                                   first_head * WIDTH + column % PART * 8;
      const u32 to = shared + (line * PITCH + column) * 16;
#pragma unroll
      for (int frame = 0; frame < ROWS; frame += READ) {
        if (frame + line < ROWS) fetch(to + frame * PITCH * 16, from, frame + line < frames);
        from += 3 * READ * stride;
      }
    }
  asm volatile("cp.async.wait_all;\n" ::: "memory");
  __syncthreads();

  const u32 source = shared + (lane % 16 * PITCH + head * (WIDTH / 8) + lane / 16) * 16;
  float scores[TILES][2 * TILES][4] = {};
#pragma unroll
  for (int step = 0; step < STEPS + TAIL; ++step) {
    u32 q[TILES][4], k[TILES][4];
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
      load(q[i], source + (16 * i * PITCH + 2 * step) * 16);
      load(k[i], source + (16 * i * PITCH + 2 * step + PART) * 16);
      if (step == STEPS) q[i][2] = q[i][3] = k[i][2] = k[i][3] = 0u;
    }
#pragma unroll
    for (int i = 0; i < TILES; ++i)
#pragma unroll
      for (int j = 0; j < 2 * TILES; ++j)
        multiply(scores[i][j], q[i][0], q[i][1], q[i][2], q[i][3], k[j / 2][j % 2], k[j / 2][j % 2 + 2]);
  }

  u32 weights[TILES][2 * TILES][2];
  float inverse[TILES][2];
#pragma unroll
  for (int i = 0; i < TILES; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float high = -1e30f, sum = 0.f;
#pragma unroll
      for (int j = 0; j < 2 * TILES; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& score = scores[i][j][2 * half + e];
          score = 8 * j + 2 * place + e < frames ? score * factor : -1e30f;
          high = fmaxf(high, score);
        }
      high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 1));
      high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, 2));
#pragma unroll
      for (int j = 0; j < 2 * TILES; ++j) {
        const float one = exp2f(scores[i][j][2 * half] - high), two = exp2f(scores[i][j][2 * half + 1] - high);
        sum += one + two;
        weights[i][j][half] = pack(one, two);
      }
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      inverse[i][half] = __fdividef(1.f, sum);
    }

  // The output takes the place of the warp's own queries, which all its threads have read.
  __syncwarp();
  u32* const target = (u32*)memory + (row * PITCH + head * (WIDTH / 8)) * 4 + place;
#pragma unroll
  for (int step = 0; step < STEPS + TAIL; ++step) {
    u32 v[TILES][4];
#pragma unroll
    for (int j = 0; j < TILES; ++j) load_turned(v[j], source + (16 * j * PITCH + 2 * step + 2 * PART) * 16);
#pragma unroll
    for (int i = 0; i < TILES; ++i)
#pragma unroll
      for (int side = 0; side < (step < STEPS ? 2 : 1); ++side) {
        float sum[4] = {};
#pragma unroll
        for (int j = 0; j < TILES; ++j) {
          const u32 (&a)[2] = weights[i][2 * j], (&b)[2] = weights[i][2 * j + 1];
          multiply(sum, a[0], a[1], b[0], b[1], v[j][2 * side], v[j][2 * side + 1]);
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float scale = inverse[i][half];
          const u32 pair = pack(sum[2 * half] * scale, sum[2 * half + 1] * scale);
          target[((16 * i + 8 * half) * PITCH + 2 * step + side) * 4] = pair;
        }
      }
  }
  __syncthreads();

  line = threadIdx.x / PART;
  if (line >= WRITTEN) return;
#pragma unroll
  for (int column = threadIdx.x % PART; column < PART; column += THREADS) {
    unsigned short* to = out + begin * CHANNELS + line * stride + first_head * WIDTH + column * 8;
#pragma unroll
    for (int frame = 0; frame < ROWS; frame += WRITTEN) {
      if (frame + line < frames) *(uint4*)to = memory[(frame + line) * PITCH + column];
      to += WRITTEN * stride;
    }
  }
}
