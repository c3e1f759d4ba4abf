// Pairs of half precision values, of either kind (the loader defines BFLOAT16 as 1 or 0), without CUDA's headers, which
// a machine that only runs torch does not have.

typedef unsigned int u32;
typedef unsigned long long u64;

#if BFLOAT16
constexpr unsigned short ONE = 0x3f80;
#else
constexpr unsigned short ONE = 0x3c00;
#endif

__device__ __forceinline__ float2 unpack(u32 pair) {
#if BFLOAT16
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
#else
  float2 values;
  asm("{\n.reg .b16 low, high;\nmov.b32 {low, high}, %2;\ncvt.f32.f16 %0, low;\ncvt.f32.f16 %1, high;\n}\n"
      : "=f"(values.x), "=f"(values.y) : "r"(pair));
  return values;
#endif
}

__device__ __forceinline__ u32 pack(float low, float high) {
  u32 pair;
#if BFLOAT16
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#else
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#endif
  return pair;
}

// Eight values, which is what a thread moves at once.
__device__ __forceinline__ void unpack8(uint4 packed, float (&values)[8]) {
  const u32 pairs[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 two = unpack(pairs[i]);
    values[2 * i] = two.x;
    values[2 * i + 1] = two.y;
  }
}

__device__ __forceinline__ uint4 pack8(const float (&values)[8]) {
  return make_uint4(pack(values[0], values[1]), pack(values[2], values[3]), pack(values[4], values[5]),
                    pack(values[6], values[7]));
}
