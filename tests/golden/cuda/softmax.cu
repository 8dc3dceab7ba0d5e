extern "C" __global__ void __launch_bounds__(128) softmax(
    int* error,
    unsigned char* scratch,
    const float* __restrict__ p0,
    const float* __restrict__ p1,
    float* __restrict__ p2) {
  const int item = (int)blockIdx.x * 4 + threadIdx.y;
  const int lane = threadIdx.x;
  if (item >= 12) return;
  const int v0 = item / 2;
  if ((item % 2) < 1) {
    p2[40 * v0 + lane] = p0[40 * v0 + lane] / p1[v0];
  }
  if (1 < ((item % 2) + 1)) {
    if (lane < 8) {
      p2[40 * v0 + lane + 32] = p0[40 * v0 + lane + 32] / p1[v0];
    }
  }
}
