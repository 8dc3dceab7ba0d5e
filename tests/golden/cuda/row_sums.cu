extern "C" __global__ void __launch_bounds__(128) row_sums(
    int* error,
    unsigned char* scratch,
    const float* __restrict__ p0,
    float* __restrict__ p1) {
  const int item = (int)blockIdx.x * 4 + threadIdx.y;
  const int lane = threadIdx.x;
  if (item >= 6) return;
  float v0 = 0.0f;
  for (int v1 = 0; v1 < 6; ++v1) {
    {
      v0 = v0 + p0[200 * item + 32 * v1 + lane];
    }
  }
  v0 = cn_warp_add<float>(v0);
  float v2 = 0.0f;
  if (lane < 8) {
    v2 = v2 + p0[200 * item + lane + 192];
  }
  v2 = cn_warp_add<float>(v2);
  if (lane == 0) p1[item] = v0 + v2;
}
