extern "C" __global__ void __launch_bounds__(128) scatter(
    int* error,
    unsigned char* scratch,
    const float* __restrict__ p0,
    const long long* __restrict__ p1,
    const float* __restrict__ p2,
    float* __restrict__ p3) {
  const int item = (int)blockIdx.x * 128 + threadIdx.y;
  if (item >= 1) return;
  for (int v0 = 0; v0 < 20; ++v0) {
    p3[v0] = p0[v0];
  }
  for (int v1 = 0; v1 < 3; ++v1) {
    for (int v2 = 0; v2 < 5; ++v2) {
      const int v3 = cn_checked(p1[v1], 4, 1, error);
      const float v4 = p3[5 * v3 + v2];
      p3[5 * v3 + v2] = cn_max<float>(v4, p2[5 * v1 + v2]);
    }
  }
}
