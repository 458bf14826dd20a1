// Runs one block of a CUDA kernel on the CPU, a thread for each thread: enough of a warp to check turing.cu's fragments.
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>
#include <vector>
using std::fmaxf;
#define __device__
#define __global__
#define __forceinline__ inline
#define __restrict__
#define __shared__
#define __launch_bounds__(...)
#define __align__(n)
struct Index { unsigned x; };
struct uint4 { unsigned x, y, z, w; };
struct float2 { float x, y; };
inline uint4 make_uint4(unsigned a, unsigned b, unsigned c, unsigned d) { return {a, b, c, d}; }
inline float2 make_float2(float a, float b) { return {a, b}; }
inline float __int_as_float(unsigned u) { float f; std::memcpy(&f, &u, 4); return f; }
thread_local Index threadIdx, blockIdx;
alignas(16) unsigned short memory[32768];
struct Warp { std::barrier<> gate{32}; unsigned words[32][4]; float floats[32]; };
static std::unique_ptr<Warp[]> warps;
static std::unique_ptr<std::barrier<>> block_gate;
inline Warp& warp_of() { return warps[threadIdx.x / 32]; }
inline void __syncthreads() { block_gate->arrive_and_wait(); }
inline float __shfl_xor_sync(unsigned, float value, int mask) {
    Warp& w = warp_of();
    w.floats[threadIdx.x % 32] = value;
    w.gate.arrive_and_wait();
    float out = w.floats[threadIdx.x % 32 ^ mask];
    w.gate.arrive_and_wait();
    return out;
}
inline float half_value(unsigned short bits) { _Float16 h; std::memcpy(&h, &bits, 2); return (float)h; }
inline unsigned shared_address(const void* p) { return (unsigned)((const char*)p - (const char*)memory); }
inline unsigned pack(float low, float high) {
    _Float16 h[2] = {(_Float16)low, (_Float16)high};
    unsigned out;
    std::memcpy(&out, h, 4);
    return out;
}
inline float exp2_fast(float x) { return std::exp2(x); }
// PTX ISA, matrix fragments for mma.m16n8k8 with .f16 inputs
inline void multiply(float (&c)[4], unsigned a0, unsigned a1, unsigned b) {
    Warp& w = warp_of();
    unsigned lane = threadIdx.x % 32, mine[3] = {a0, a1, b};
    std::memcpy(w.words[lane], mine, 12);
    w.gate.arrive_and_wait();
    for (int i = 0; i < 4; ++i) {
        unsigned row = lane / 4 + (i / 2) * 8, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 8; ++k) {
            unsigned a = w.words[row % 8 * 4 + k / 2][row / 8], d = w.words[column * 4 + k / 2][2];
            c[i] += half_value(a >> 16 * (k % 2)) * half_value(d >> 16 * (k % 2));
        }
    }
    w.gate.arrive_and_wait();
}
template <int COUNT, bool TRANSPOSED> inline void load_matrices(unsigned (&m)[4], unsigned at) {
    Warp& w = warp_of();
    unsigned lane = threadIdx.x % 32;
    w.words[lane][0] = at;
    w.gate.arrive_and_wait();
    for (int i = 0; i < COUNT; ++i) {
        unsigned out = 0;
        for (int half = 0; half < 2; ++half) {
            unsigned row = lane / 4, column = lane % 4 * 2 + half;
            if (TRANSPOSED) std::swap(row, column);
            out |= (unsigned)memory[w.words[i * 8 + row][0] / 2 + column] << 16 * half;
        }
        m[i] = out;
    }
    w.gate.arrive_and_wait();
}
template <class Kernel> void run_block(unsigned block, unsigned threads, Kernel kernel) {
    warps.reset(new Warp[threads / 32]);
    block_gate.reset(new std::barrier<>(threads));
    std::memset(memory, 0x7e, sizeof memory);  // not a number, if read before it is written
    std::vector<std::thread> pool;
    for (unsigned i = 0; i < threads; ++i)
        pool.emplace_back([=] { threadIdx.x = i; blockIdx.x = block; kernel(); });
    for (auto& t : pool) t.join();
}
