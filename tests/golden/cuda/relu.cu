extern "C" __global__ void __launch_bounds__(128) relu(
    int* error,
    unsigned char* scratch,
    const float* __restrict__ p0,
    float* __restrict__ p1) {
  const int item = (int)blockIdx.x * 4 + threadIdx.y;
  const int lane = threadIdx.x;
  if (item >= 4) return;
  for (int v0 = item; v0 < cn_min<int>(item + 1, 3); ++v0) {
    p1[32 * v0 + lane] = cn_max<float>(p0[32 * v0 + lane], 0.0f);
  }
  if (3 < (item + 1)) {
    if (lane < 4) {
      p1[lane + 96] = cn_max<float>(p0[lane + 96], 0.0f);
    }
  }
}
