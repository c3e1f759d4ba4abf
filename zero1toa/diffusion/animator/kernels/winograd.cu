// Convolutions of 3 x 3 by Winograd's F(2 x 2, 3 x 3): each 2 x 2 pixels, a tile, come of the 4 x 4 around them, the
// patch, by 16 products instead of 36. Here are the sums before and after the products, which a batched product of
// matrices takes: [16, tiles, channels], the tiles of a map row by row. Both kernels are limited by what they write and
// read of these, four times as much as a map. Maps are laid out channels last; their sides are even.

constexpr int CHUNK = 8;   // vectors of a pixel that a block takes, 128 bytes
constexpr int PIXELS = 6;  // that a thread normalises, at most

// Group normalisation and SiLU from the sums of `parts` blocks of `group_sums`, then of each patch d
//
//              | 1  0 -1  0 |
//   B^T d B,   | 0  1  1  0 | = B^T.
//              | 0 -1  1  0 |
//              | 0  1  0 -1 |
//
// A block works on CHUNK vectors of `down` x `over` tiles of one sample: a thread for each vector of a tile, perhaps
// further ones, in whole warps. Pixels of several of its patches are normalised once and wait in shared memory, as
// float32. Around a map lie zeros.
extern "C" __global__ void __launch_bounds__(256, 3)
    normalised_patches(const uint4* x, const uint4* more, const uint4* shift, const float* sums, const uint4* weight,
                       const uint4* bias, uint4* out, int height, int width, int own, int vectors, int groups,
                       int parts, int down, int over, float epsilon) {
  extern __shared__ float moments[];  // [2, 8 * CHUNK], for each channel a group of its own at the utmost
  float4* pixels = (float4*)(moments + 2 * 8 * CHUNK);  // [halves of a vector, pixels, CHUNK]: 128 bytes for eight threads
  const int chunks = vectors / CHUNK, start = blockIdx.x % chunks * CHUNK, vector = start + threadIdx.x;
  const int across = width / 2, blocks = (across + over - 1) / over;
  const int line = blockIdx.x / chunks / blocks * down, column = blockIdx.x / chunks % blocks * over;  // its first tile
  const int top = max(0, 2 * line - 1), side = max(0, 2 * column - 1);  // its first pixel
  const int wide = min(width, 2 * (column + over) + 1) - side, held = (min(height, 2 * (line + down) + 1) - top) * wide;
  const int stride = vector < own ? own : vectors - own;
  const uint4* source = vector < own ? x + vector : more + vector - own;
  source += (((long)blockIdx.y * height + top) * width + side) * stride;
  uint4 packed[PIXELS];  // on their way while the moments are gathered
#pragma unroll
  for (int n = 0; n < PIXELS; ++n) {
    const int pixel = threadIdx.y + n * blockDim.y;
    if (pixel < held) packed[n] = source[(long)(pixel / wide * width + pixel % wide) * stride];
  }
  float add[8] = {}, gain[8], offset[8];
  if (shift) unpack8(shift[vector], add);
  unpack8(weight[vector], gain);
  unpack8(bias[vector], offset);

  const int each = 8 * vectors / groups, first = 8 * start / each;
  const int met = (8 * (start + CHUNK) - 1) / each - first + 1;  // groups that the block's channels belong to
  const int index = threadIdx.y * CHUNK + threadIdx.x, lane = index % 32;
  for (int i = index / 32; i < 2 * met; i += blockDim.y * CHUNK / 32) {
    const float* from = sums + (long)blockIdx.y * parts * 2 * groups + i / met * groups + first + i % met;
    float sum = 0.f;
    for (int part = lane; part < parts; part += 32) sum += from[part * 2 * groups];
#pragma unroll
    for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane == 0) moments[i] = sum;
  }
  __syncthreads();
  const float per_value = 1.f / ((float)height * width * each);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int group = (8 * vector + i) / each - first;
    const float mean = moments[group] * per_value;
    const float variance = fmaxf(moments[met + group] * per_value - mean * mean, 0.f);
    gain[i] *= rsqrtf(variance + epsilon);
    offset[i] += (add[i] - mean) * gain[i];
  }
#pragma unroll
  for (int n = 0; n < PIXELS; ++n) {
    const int pixel = threadIdx.y + n * blockDim.y;
    if (pixel >= held) break;
    float values[8];
    unpack8(packed[n], values);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float value = values[i] * gain[i] + offset[i];
      values[i] = __fdividef(value, 1.f + __expf(-value));
    }
    pixels[pixel * CHUNK + threadIdx.x] = make_float4(values[0], values[1], values[2], values[3]);
    pixels[(held + pixel) * CHUNK + threadIdx.x] = make_float4(values[4], values[5], values[6], values[7]);
  }
  __syncthreads();

  const int row = line + threadIdx.y / over, place = column + threadIdx.y % over, y = 2 * row - 1, left = 2 * place - 1;
  if (row >= min(line + down, height / 2) || place >= across) return;
  const long tiles = (long)gridDim.y * (height / 2) * across;
  const long tile = ((long)blockIdx.y * (height / 2) + row) * across + place;
  uint4* target = out + tile * vectors + vector;
  const auto include = [&](int row, float sign, float(&values)[4][8]) {
#pragma unroll
    for (int column = 0; column < 4; ++column) {
      const bool inside = y + row >= 0 && y + row < height && left + column >= 0 && left + column < width;
      const int at = ((y + row - top) * wide + left + column - side) * CHUNK + threadIdx.x;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float4 four = inside ? pixels[half * held * CHUNK + at] : make_float4(0.f, 0.f, 0.f, 0.f);
        values[column][4 * half] += sign * four.x;
        values[column][4 * half + 1] += sign * four.y;
        values[column][4 * half + 2] += sign * four.z;
        values[column][4 * half + 3] += sign * four.w;
      }
    }
  };
  // Row by row of B^T d, which reads every pixel twice: held all at once they would leave room for fewer threads.
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    constexpr int one[4] = {0, 1, 2, 1}, other[4] = {2, 2, 1, 3};
    float of_row[4][8] = {};
    include(one[i], 1.f, of_row);
    include(other[i], i == 1 ? 1.f : -1.f, of_row);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float values[8];
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const float a = of_row[one[j]][k], b = of_row[other[j]][k];
        values[k] = j == 1 ? a + b : a - b;
      }
      target[(4 * i + j) * tiles * vectors] = pack8(values);
    }
  }
}

// Of the products m of each tile
//
//   A^T m A,   | 1  1  1  0 | = A^T,
//              | 0  1 -1 -1 |
//
// plus `shift`, for each channel, and the maps `a` and `b`; what is null is left out. `across` tiles lie side by side.
// A thread for each vector of a tile.
extern "C" __global__ void __launch_bounds__(128, 4)
    from_products(const uint4* products, const uint4* a, const uint4* b, const uint4* shift, uint4* out, int tiles,
                  int across, int vectors) {
  const int index = blockIdx.x * blockDim.x + threadIdx.x, tile = index / vectors, vector = index % vectors;
  if (tile >= tiles) return;
  uint4 packed[4][4];  // all on their way at once
#pragma unroll
  for (int i = 0; i < 16; ++i) packed[i / 4][i % 4] = products[(long)i * tiles * vectors + index];
  const auto at = [&](int pixel) {
    const long row = 2L * (tile / across) + pixel / 2;  // of the rows of all maps
    return (row * 2 * across + 2 * (tile % across) + pixel % 2) * vectors + vector;
  };
  float sums[4][8] = {};  // of the upper left, upper right, lower left, lower right pixel
  if (shift) {
#pragma unroll
    for (int pixel = 0; pixel < 4; ++pixel) unpack8(shift[vector], sums[pixel]);
  }
  const uint4* maps[2] = {a, b};
#pragma unroll
  for (int map = 0; map < 2; ++map)
    if (maps[map]) {
#pragma unroll
      for (int pixel = 0; pixel < 4; ++pixel) {
        float values[8];
        unpack8(maps[map][at(pixel)], values);
#pragma unroll
        for (int i = 0; i < 8; ++i) sums[pixel][i] += values[i];
      }
    }
#pragma unroll
  for (int row = 0; row < 4; ++row) {
    float m[4][8];
#pragma unroll
    for (int column = 0; column < 4; ++column) unpack8(packed[row][column], m[column]);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float left = m[0][i] + m[1][i] + m[2][i], right = m[1][i] - m[2][i] - m[3][i];
      if (row < 3) {
        sums[0][i] += left;
        sums[1][i] += right;
      }
      if (row > 0) {
        sums[2][i] += row == 1 ? left : -left;
        sums[3][i] += row == 1 ? right : -right;
      }
    }
  }
#pragma unroll
  for (int pixel = 0; pixel < 4; ++pixel) out[at(pixel)] = pack8(sums[pixel]);
}
