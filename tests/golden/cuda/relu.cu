extern "C" __global__ void __launch_bounds__(125) relu(
    int* error,
    unsigned char* scratch,
    const float* __restrict__ p0,
    float* __restrict__ p1) {
  const int item = (int)blockIdx.x * 5 + threadIdx.y;
  const int lane = threadIdx.x * 4;
  if (item >= 1) return;
  cn_several<float, 4> v0;
  const auto v1 = cn_read<4>(p0 + lane);
  #pragma unroll
  for (int e = 0; e < 4; ++e) {
    v0.at[e] = cn_max<float>(v1.at[e], 0.0f);
  }
  cn_write(p1 + lane, v0);
}
