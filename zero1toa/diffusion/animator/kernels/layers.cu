// What lies between the products and convolutions of a network. All of it is limited by memory: each kernel reads and
// writes every value once, 16 bytes at a time. Maps are laid out channels last, as rows of channels.

// ---- group normalisation: sums first, then values -----------------------------------------------------------------
// A block has a thread for each 8 channels, in several rows; it works on `per_block` rows of one sample. The channels of
// a second map may follow those of the first.

__device__ __forceinline__ const uint4* column(const uint4* x, const uint4* more, int rows, int own, int vectors,
                                               int& stride) {
  const bool first = threadIdx.x < own;
  stride = first ? own : vectors - own;
  const uint4* map = first ? x : more;
  return map + (long)blockIdx.y * rows * stride + (first ? threadIdx.x : threadIdx.x - own);
}

// Sums and sums of squares of each group over a block's rows, in a fixed order: [samples, blocks, 2, groups].
extern "C" __global__ void group_sums(const uint4* x, const uint4* more, const uint4* shift, float* sums, int rows,
                                      int own, int vectors, int groups, int per_block) {
  extern __shared__ float parts[];  // [2, rows of threads, channels]
  int stride;
  const uint4* source = column(x, more, rows, own, vectors, stride);
  float add[8] = {}, total[8] = {}, square[8] = {};
  if (shift) unpack8(shift[threadIdx.x], add);
  const int last = min(rows, (int)(blockIdx.x + 1) * per_block);
#pragma unroll 4
  for (int row = blockIdx.x * per_block + threadIdx.y; row < last; row += blockDim.y) {
    float values[8];
    unpack8(source[(long)row * stride], values);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float value = values[i] + add[i];
      total[i] += value;
      square[i] += value * value;
    }
  }
  const int channels = 8 * vectors, lines = blockDim.y;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    parts[threadIdx.y * channels + 8 * threadIdx.x + i] = total[i];
    parts[(lines + threadIdx.y) * channels + 8 * threadIdx.x + i] = square[i];
  }
  __syncthreads();
  const int width = channels / groups;
  for (int i = threadIdx.y * vectors + threadIdx.x; i < 2 * groups; i += vectors * lines) {
    const float* from = parts + i / groups * lines * channels + i % groups * width;
    float sum = 0.f;
    for (int line = 0; line < lines; ++line)
      for (int c = 0; c < width; ++c) sum += from[line * channels + c];
    sums[((long)blockIdx.y * gridDim.x + blockIdx.x) * 2 * groups + i] = sum;
  }
}

// Values from the sums of `parts` blocks; with SiLU if asked for.
extern "C" __global__ void group_normalise(const uint4* x, const uint4* more, const uint4* shift, const float* sums,
                                           const uint4* weight, const uint4* bias, uint4* out, int rows, int own,
                                           int vectors, int groups, int parts, int per_block, float epsilon,
                                           int activate) {
  extern __shared__ float moments[];  // [2, groups]
  const int index = threadIdx.y * vectors + threadIdx.x;
  for (int i = index; i < 2 * groups; i += vectors * blockDim.y) {
    const float* from = sums + (long)blockIdx.y * parts * 2 * groups + i;
    float sum = 0.f;
    for (int part = 0; part < parts; ++part) sum += from[part * 2 * groups];
    moments[i] = sum;
  }
  __syncthreads();
  const int width = 8 * vectors / groups;
  const float count = (float)rows * width;
  float add[8] = {}, gain[8], offset[8];
  if (shift) unpack8(shift[threadIdx.x], add);
  unpack8(weight[threadIdx.x], gain);
  unpack8(bias[threadIdx.x], offset);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int group = (8 * threadIdx.x + i) / width;
    const float mean = moments[group] / count;
    const float variance = fmaxf(moments[groups + group] / count - mean * mean, 0.f);
    gain[i] *= rsqrtf(variance + epsilon);
    offset[i] += (add[i] - mean) * gain[i];
  }
  int stride;
  const uint4* source = column(x, more, rows, own, vectors, stride);
  uint4* target = out + (long)blockIdx.y * rows * vectors + threadIdx.x;
  const int last = min(rows, (int)(blockIdx.x + 1) * per_block);
#pragma unroll 4
  for (int row = blockIdx.x * per_block + threadIdx.y; row < last; row += blockDim.y) {
    float values[8];
    unpack8(source[(long)row * stride], values);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float value = values[i] * gain[i] + offset[i];
      values[i] = activate ? __fdividef(value, 1.f + __expf(-value)) : value;
    }
    target[(long)row * vectors] = pack8(values);
  }
}

// ---- residual sum and layer normalisation of its rows --------------------------------------------------------------
// LANES threads share a row of LANES * 40 channels. Left out where null: `change`, `constant`, which has one row for every
// `period` rows, `sum`, and `places`, which are added to what is normed, by frame. Rows of `sum` lie `stride` times 8 channels
// apart; where they are wider than what is summed, a one and seven zeros follow.

template <int LANES>
__device__ __forceinline__ void add_and_normalise(const uint4* x, const uint4* change, const uint4* constant, uint4* sum, int stride,
                                                  uint4* normed, const uint4* weight, const uint4* bias, const uint4* places,
                                                  int rows, int period, float factor, int pixels, int frames,
                                                  float epsilon) {
  constexpr int PIECES = 5, VECTORS = LANES * PIECES;
  const int row = (blockIdx.x * blockDim.x + threadIdx.x) / LANES, lane = threadIdx.x % LANES;
  if (row >= rows) return;
  float values[PIECES][8], total = 0.f;
#pragma unroll
  for (int i = 0; i < PIECES; ++i) unpack8(x[(long)row * VECTORS + lane + LANES * i], values[i]);
  if (change) {
#pragma unroll
    for (int i = 0; i < PIECES; ++i) {
      float more[8];
      unpack8(change[(long)row * VECTORS + lane + LANES * i], more);
#pragma unroll
      for (int j = 0; j < 8; ++j) values[i][j] += factor * more[j];
    }
  }
  if (constant) {
#pragma unroll
    for (int i = 0; i < PIECES; ++i) {
      float more[8];
      unpack8(constant[(long)(row / period) * VECTORS + lane + LANES * i], more);
#pragma unroll
      for (int j = 0; j < 8; ++j) values[i][j] += more[j];
    }
  }
  const u32 group = LANES == 32 ? 0xffffffffu : ((1u << LANES % 32) - 1) << (threadIdx.x % 32 / LANES * LANES);
#pragma unroll
  for (int i = 0; i < PIECES; ++i) {
    if (sum) sum[(long)row * stride + lane + LANES * i] = pack8(values[i]);
#pragma unroll
    for (int j = 0; j < 8; ++j) total += values[i][j];
  }
  if (sum && stride > VECTORS && lane == 0) sum[(long)row * stride + VECTORS] = make_uint4(ONE, 0, 0, 0);
#pragma unroll
  for (int step = LANES / 2; step; step /= 2) total += __shfl_xor_sync(group, total, step);
  const float mean = total / (8 * VECTORS);
  float square = 0.f;
#pragma unroll
  for (int i = 0; i < PIECES; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j) square += (values[i][j] - mean) * (values[i][j] - mean);
#pragma unroll
  for (int step = LANES / 2; step; step /= 2) square += __shfl_xor_sync(group, square, step);
  const float scale = rsqrtf(square / (8 * VECTORS) + epsilon);
  const int frame = places ? row / pixels % frames : 0;
#pragma unroll
  for (int i = 0; i < PIECES; ++i) {
    const int at = lane + LANES * i;
    float gain[8], offset[8], place[8] = {};
    unpack8(weight[at], gain);
    unpack8(bias[at], offset);
    if (places) unpack8(places[(long)frame * VECTORS + at], place);
#pragma unroll
    for (int j = 0; j < 8; ++j) values[i][j] = (values[i][j] - mean) * scale * gain[j] + offset[j] + place[j];
    normed[(long)row * VECTORS + at] = pack8(values[i]);
  }
}

#define ADD_AND_NORMALISE(LANES)                                                                                     \
  extern "C" __global__ void add_and_normalise_##LANES(                                                              \
      const uint4* x, const uint4* change, const uint4* constant, uint4* sum, int stride, uint4* normed,             \
      const uint4* weight, const uint4* bias, const uint4* places, int rows, int period, float factor, int pixels,   \
      int frames, float epsilon) {                                                                                   \
    add_and_normalise<LANES>(x, change, constant, sum, stride, normed, weight, bias, places, rows, period, factor,   \
                             pixels, frames, epsilon);                                                               \
  }
ADD_AND_NORMALISE(8)
ADD_AND_NORMALISE(16)
ADD_AND_NORMALISE(32)

// ---- gate of a feed-forward layer ------------------------------------------------------------------------------------
// Rows of values and gates side by side, `vectors` each, to values times GELU of gates, in rows `stride` vectors apart.

extern "C" __global__ void gate(const uint4* x, uint4* out, int stride, int rows, int vectors, int per_block) {
  const int last = min(rows, (int)(blockIdx.x + 1) * per_block);
#pragma unroll 2
  for (int row = blockIdx.x * per_block; row < last; ++row) {
    float values[8], gates[8];
    unpack8(x[(long)row * 2 * vectors + threadIdx.x], values);
    unpack8(x[((long)row * 2 + 1) * vectors + threadIdx.x], gates);
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] *= 0.5f * gates[i] * (1.f + erff(gates[i] * 0.70710678f));
    out[(long)row * stride + threadIdx.x] = pack8(values);
  }
}

// ---- sum of up to four maps and of a value for each channel; what is null is left out ------------------------------

extern "C" __global__ void add(const uint4* a, const uint4* b, const uint4* c, const uint4* d, const uint4* shift,
                               uint4* out, int rows, int vectors, int per_block) {
  const uint4* maps[4] = {a, b, c, d};
  float start[8] = {};
  if (shift) unpack8(shift[threadIdx.x], start);
  const int last = min(rows, (int)(blockIdx.x + 1) * per_block);
#pragma unroll 2
  for (int row = blockIdx.x * per_block + threadIdx.y; row < last; row += blockDim.y) {
    const long at = (long)row * vectors + threadIdx.x;
    float sum[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[i] = start[i];
#pragma unroll
    for (int map = 0; map < 4; ++map)
      if (maps[map]) {
        float values[8];
        unpack8(maps[map][at], values);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum[i] += values[i];
      }
    out[at] = pack8(sum);
  }
}

// ---- upsampling ------------------------------------------------------------------------------------------------------
// `x` [samples, height + 1, width + 1, 2, 2, vectors] to [samples, 2 height, 2 width, vectors]: each pixel of a square of
// four is found one row and column further on the further it is itself. A block for each row that is written.

extern "C" __global__ void interleave(const uint4* x, const uint4* shift, uint4* out, int height, int width,
                                      int vectors) {
  float add[8];
  unpack8(shift[threadIdx.x], add);
  const int line = blockIdx.x, below = line % 2;
  const uint4* source = x + ((long)blockIdx.y * (height + 1) + line / 2 + below) * (width + 1) * 4 * vectors;
  uint4* target = out + ((long)blockIdx.y * 2 * height + line) * 2 * width * vectors;
#pragma unroll 2
  for (int column = threadIdx.y; column < 2 * width; column += blockDim.y) {
    const int right = column % 2;
    float values[8];
    unpack8(source[(long)(column / 2 + right) * 4 * vectors + (2 * below + right) * vectors + threadIdx.x], values);
#pragma unroll
    for (int i = 0; i < 8; ++i) values[i] += add[i];
    target[(long)column * vectors + threadIdx.x] = pack8(values);
  }
}

// ---- keys and values of a clip's pictures, followed by its reference's ----------------------------------------------
// `qkv` [pictures, tokens, 3, vectors], of the reference `keys` and `values` [clips, more, vectors] in rows `stride` vectors
// apart, to [pictures, tokens + more, 2, vectors]. A thread for each vector of a row.

extern "C" __global__ void join(const uint4* qkv, const uint4* keys, const uint4* values, uint4* out, int tokens,
                                int more, int vectors, int stride, int frames, int per_block) {
  const int column = threadIdx.x, last = min(tokens + more, (int)(blockIdx.x + 1) * per_block);
  const uint4* own = qkv + (long)blockIdx.y * tokens * 3 * vectors + vectors + column;
  const uint4* other = column < vectors ? keys + column : values + column - vectors;
  other += (long)(blockIdx.y / frames) * more * stride;
  uint4* target = out + (long)blockIdx.y * (tokens + more) * 2 * vectors + column;
#pragma unroll 4
  for (int row = blockIdx.x * per_block + threadIdx.y; row < last; row += blockDim.y)
    target[(long)row * 2 * vectors] = row < tokens ? own[(long)row * 3 * vectors] : other[(long)(row - tokens) * stride];
}
