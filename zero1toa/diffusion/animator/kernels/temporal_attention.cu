// Attention over the frames of a clip. The sequences are tiny, 16 frames for each of up to 100,000 pixels and heads, and
// are read and written once: a warp takes one head of one pixel straight from where the projection left it, and keeps
// everything in registers. WIDTH (of a head) and TILES (of 16 frames) are the loader's.
//
// The order in which a product sums does not matter as long as both its factors have it, so that a thread's 4 columns of
// each 16 are neighbours in memory.

constexpr int STEPS = WIDTH / 16, TAIL = WIDTH % 16 / 8;

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

__device__ __forceinline__ u32 transpose(u32 value) {
  u32 turned;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(value));
  return turned;
}

// One head of one pixel for each warp: [clips, frames, pixels, 3, heads, WIDTH] to [clips, frames, pixels, heads, WIDTH].
extern "C" __global__ void __launch_bounds__(256) attend(const unsigned short* qkv, unsigned short* out, int frames,
                                                         int pixels, int heads, float factor) {
  const int lane = threadIdx.x % 32, row = lane / 4, place = lane % 4;
  const int head = threadIdx.x / 32, pixel = blockIdx.x, clip = blockIdx.y;
  const int channels = heads * WIDTH;
  const long stride = (long)pixels * 3 * channels;
  const unsigned short* source = qkv + clip * frames * stride + (long)pixel * 3 * channels + head * WIDTH;
  float scores[TILES][2 * TILES][4] = {};

#pragma unroll
  for (int step = 0; step < STEPS + TAIL; ++step) {
    const int at = 16 * step + (step < STEPS ? 4 : 2) * place;
    uint2 q[2 * TILES], k[2 * TILES];
#pragma unroll
    for (int tile = 0; tile < 2 * TILES; ++tile) {
      const int frame = 8 * tile + row;
      q[tile] = k[tile] = make_uint2(0u, 0u);
      if (frame < frames) {
        const unsigned short* from = source + frame * stride + at;
        if (step < STEPS) {
          q[tile] = *(const uint2*)from;
          k[tile] = *(const uint2*)(from + channels);
        } else {
          q[tile].x = *(const u32*)from;
          k[tile].x = *(const u32*)(from + channels);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < TILES; ++i)
#pragma unroll
      for (int j = 0; j < 2 * TILES; ++j)
        multiply(scores[i][j], q[2 * i].x, q[2 * i + 1].x, q[2 * i].y, q[2 * i + 1].y, k[j].x, k[j].y);
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
      inverse[i][half] = 1.f / sum;
    }

  unsigned short* target = out + clip * frames * (stride / 3) + (long)pixel * channels + head * WIDTH;
#pragma unroll
  for (int step = 0; step < STEPS + TAIL; ++step) {
    const int at = 16 * step + (step < STEPS ? 4 : 2) * place;
    uint2 v[2 * TILES];
#pragma unroll
    for (int tile = 0; tile < 2 * TILES; ++tile) {
      const int frame = 8 * tile + row;
      v[tile] = make_uint2(0u, 0u);
      if (frame < frames) {
        const unsigned short* from = source + frame * stride + 2 * channels + at;
        if (step < STEPS)
          v[tile] = *(const uint2*)from;
        else
          v[tile].x = *(const u32*)from;
      }
      v[tile].x = transpose(v[tile].x);
      if (step < STEPS) v[tile].y = transpose(v[tile].y);
    }
#pragma unroll
    for (int i = 0; i < TILES; ++i) {
      float left[4] = {}, right[4] = {};
#pragma unroll
      for (int j = 0; j < TILES; ++j) {
        const u32 (&a)[2] = weights[i][2 * j], (&b)[2] = weights[i][2 * j + 1];
        multiply(left, a[0], a[1], b[0], b[1], v[2 * j].x, v[2 * j + 1].x);
        if (step < STEPS) multiply(right, a[0], a[1], b[0], b[1], v[2 * j].y, v[2 * j + 1].y);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int frame = 16 * i + 8 * half + row;
        if (frame >= frames) continue;
        unsigned short* to = target + frame * (stride / 3) + at;
        const float scale = inverse[i][half];
        const u32 first = pack(left[2 * half] * scale, left[2 * half + 1] * scale);
        if (step < STEPS)
          *(uint2*)to = make_uint2(first, pack(right[2 * half] * scale, right[2 * half + 1] * scale));
        else
          *(u32*)to = first;
      }
    }
  }
}
