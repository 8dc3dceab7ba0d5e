extern "C" __global__ void __launch_bounds__(128) gather(
    int* error,
    unsigned char* scratch,
    const unsigned char* __restrict__ p0,
    const long long* __restrict__ p1,
    unsigned char* __restrict__ p2) {
  const int item = (int)blockIdx.x * 4 + threadIdx.y;
  const int lane = threadIdx.x;
  if (item >= 6) return;
  const int v0 = item / 2;
  if ((item % 2) < 1) {
    const int v1 = cn_checked(p1[v0], 9, 1, error);
    p2[40 * v0 + lane] = p0[40 * v1 + lane] != 0;
  }
  if (1 < ((item % 2) + 1)) {
    if (lane < 8) {
      const int v2 = cn_checked(p1[v0], 9, 1, error);
      p2[40 * v0 + lane + 32] = p0[40 * v2 + lane + 32] != 0;
    }
  }
}
