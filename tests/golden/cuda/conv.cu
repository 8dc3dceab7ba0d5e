extern "C" __global__ void __launch_bounds__(128) conv(
    int* error,
    unsigned char* scratch,
    const unsigned short* __restrict__ p0,
    const unsigned short* __restrict__ p1,
    unsigned short* __restrict__ p2) {
  const int item = (int)blockIdx.x * 4 + threadIdx.y;
  const int lane = threadIdx.x;
  if (item >= 8) return;
  const int v0 = item / 2;
  const int v1 = item % 2;
  float v2 = 0.0f;
  for (int v3 = 0; v3 < 3; ++v3) {
    for (int v4 = 0; v4 < 3; ++v4) {
      for (int v5 = 0; v5 < 3; ++v5) {
        const int v6 = 4 * v1 + (lane / 8) + v4 - 1;
        const int v7 = (lane % 8) + v5 - 1;
        if ((((0 <= v6) && (v6 < 8)) && (0 <= v7)) && (v7 < 8)) {
          v2 = v2 + (cn_from_f16(p0[64 * v3 + 32 * v1 + 8 * v4 + v5 + lane - 9]) * cn_from_f16(p1[27 * v0 + 9 * v3 + 3 * v4 + v5]));
        }
      }
    }
  }
  p2[64 * v0 + 32 * v1 + lane] = cn_to_f16(v2);
}
