extern "C" __global__ void __launch_bounds__(128) softmax(
    int* error,
    unsigned char* scratch,
    const float* __restrict__ p0,
    const float* __restrict__ p1,
    float* __restrict__ p2) {
  const int item = (int)blockIdx.x * 16 + threadIdx.y;
  const int lane = threadIdx.x * 4;
  if (item >= 12) return;
  const int v0 = item / 2;
  if ((item % 2) < 1) {
    cn_several<float, 4> v1;
    const auto v2 = cn_read<4>(p0 + 40 * v0 + lane);
    #pragma unroll
    for (int e = 0; e < 4; ++e) {
      v1.at[e] = v2.at[e] / p1[v0];
    }
    cn_write(p2 + 40 * v0 + lane, v1);
  }
  if (1 < ((item % 2) + 1)) {
    if (lane < 8) {
      cn_several<float, 4> v3;
      const auto v4 = cn_read<4>(p0 + 40 * v0 + lane + 32);
      #pragma unroll
      for (int e = 0; e < 4; ++e) {
        v3.at[e] = v4.at[e] / p1[v0];
      }
      cn_write(p2 + 40 * v0 + lane + 32, v3);
    }
  }
}
