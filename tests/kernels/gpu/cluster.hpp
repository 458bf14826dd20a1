// Runs hopper.cu's cluster of two blocks on the CPU, a thread for each thread: its indices, swizzles, barriers and
// phases. Copies and multiplications happen at once, so a missing wait is not seen here.
#include <atomic>
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>
using std::fmaxf;
#define __device__
#define __global__
#define __forceinline__ inline
#define __restrict__
#define __grid_constant__
#define __launch_bounds__(...)
#define __cluster_dims__(...)
struct Index { unsigned x; };
struct float2 { float x, y; };
inline float2 make_float2(float a, float b) { return {a, b}; }
inline float __int_as_float(unsigned u) { float f; std::memcpy(&f, &u, 4); return f; }
thread_local Index threadIdx, blockIdx, gridDim;
struct Barrier { std::atomic<unsigned> phase{0}; int count = 0, pending = 0; long bytes = 0; };
struct Warp { std::barrier<> gate{32}; float floats[32]; unsigned words[32][4]; int flags[32]; };
struct Block {
    alignas(1024) unsigned char memory[214144];
    Barrier barriers[16];
    Warp warps[12];
    std::barrier<> consumers{256};
};
static std::unique_ptr<Block> blocks[2];
static std::barrier<> cluster_gate{768};
static std::mutex lock;
inline Block& block_of() { return *blocks[blockIdx.x % 2]; }
inline Warp& warp_of() { return block_of().warps[threadIdx.x / 32]; }
template <class T, class U> inline T traded(T (Warp::*place)[32], U value, unsigned from) {
    Warp& w = warp_of();
    (w.*place)[threadIdx.x % 32] = value;
    w.gate.arrive_and_wait();
    T out = (w.*place)[from];
    w.gate.arrive_and_wait();
    return out;
}
inline float __shfl_xor_sync(unsigned, float value, int mask) { return traded(&Warp::floats, value, threadIdx.x % 32 ^ mask); }
inline int __shfl_sync(unsigned, int value, int from) { return traded(&Warp::flags, value, from); }
inline bool __any_sync(unsigned, bool value) {
    Warp& w = warp_of();
    w.flags[threadIdx.x % 32] = value;
    w.gate.arrive_and_wait();
    bool any = false;
    for (int flag : w.flags) any |= flag != 0;
    w.gate.arrive_and_wait();
    return any;
}
// ---- in place of the assembly
inline Barrier& barrier_at(Block& block, unsigned at) { return block.barriers[(at - 214016) / 8]; }
inline void settle_phase(Barrier& b) {
    if (b.pending == 0 && b.bytes == 0) {
        b.pending = b.count;
        b.phase.fetch_add(1);
        b.phase.notify_all();
    }
}
inline void barrier_init(unsigned at, unsigned count) {
    Barrier& b = barrier_at(block_of(), at);
    b.count = b.pending = count;
}
inline void barrier_expect(unsigned at, unsigned bytes) {
    std::lock_guard hold(lock);
    Barrier& b = barrier_at(block_of(), at);
    b.bytes += bytes;
    --b.pending;
    settle_phase(b);
}
inline void barrier_wait(unsigned at, unsigned parity) {
    Barrier& b = barrier_at(block_of(), at);
    for (unsigned now = b.phase.load(); now % 2 == parity; now = b.phase.load()) b.phase.wait(now);
}
inline void release(unsigned at, unsigned lane) {
    warp_of().gate.arrive_and_wait();  // the real one follows a wait of the whole warp
    if (lane >= 2) return;
    std::lock_guard hold(lock);
    Barrier& b = barrier_at(*blocks[lane], at);
    --b.pending;
    settle_phase(b);
}
inline void cluster_sync() { cluster_gate.arrive_and_wait(); }
inline unsigned swizzled(unsigned at) { return at ^ (at >> 7 & 7) << 4; }
// words: data, rows, halves between rows, heads, batches; rows of a box, groups of a box
inline void copy_to(Block& block, const TensorMap* map, unsigned to, unsigned barrier, int row, int group, int head, int batch) {
    const u64* w = map->words;
    const unsigned rows = w[5], groups = w[6];
    for (unsigned i = 0; i < groups; ++i)
        for (unsigned r = 0; r < rows; ++r)
            for (unsigned c = 0; c < 64; ++c) {
                unsigned short value = 0;
                if (row + r < w[1]) value = ((const unsigned short*)w[0])[(row + r) * w[2] + head * w[3] + batch * w[4] + (group + i) * 64 + c];
                std::memcpy(block.memory + swizzled(to + (i * rows + r) * 128 + c * 2), &value, 2);
            }
    std::lock_guard hold(lock);
    Barrier& b = barrier_at(block, barrier);
    b.bytes -= groups * rows * 128;
    settle_phase(b);
}
inline void copy(const TensorMap* map, unsigned to, unsigned barrier, int row, int group, int head, int batch) {
    copy_to(block_of(), map, to, barrier, row, group, head, batch);
}
inline void copy_all(const TensorMap* map, unsigned to, unsigned barrier, int row, int group, int head, int batch) {
    for (auto& block : blocks) copy_to(*block, map, to, barrier, row, group, head, batch);
}
inline u64 descriptor(unsigned at, unsigned leading, unsigned stride) {
    return (u64)(at >> 4 & 0x3fff) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32 | (u64)1 << 62;
}
inline u64 further(u64 descriptor, unsigned bytes) { return descriptor + (bytes >> 4); }
inline void multiply_begin() {}
inline void multiply_commit() {}
template <int LEFT> inline void multiply_wait() {}
template <int N> inline void settle(float (&)[N]) {}
inline float half_at(unsigned at) {
    _Float16 h;
    std::memcpy(&h, block_of().memory + swizzled(at), 2);
    return (float)h;
}
inline unsigned field(u64 descriptor, int shift) { return (unsigned)(descriptor >> shift & 0x3fff) << 4; }
// rows along M or N, 16 columns along K, K contiguous
inline float along_k(u64 d, unsigned row, unsigned k) {
    return half_at(field(d, 0) + row / 8 * field(d, 32) + row % 8 * 128 + k * 2);
}
// N contiguous
inline float along_n(u64 d, unsigned n, unsigned k) {
    return half_at(field(d, 0) + n / 64 * field(d, 16) + k / 8 * field(d, 32) + k % 8 * 128 + n % 64 * 2);
}
inline void multiply_scores(float (&s)[16], u64 a, u64 b, int add) {
    const unsigned thread = threadIdx.x % 128, line = thread / 32 * 16 + thread % 32 / 4;
    for (int i = 0; i < 16; ++i) {
        float sum = add ? s[i] : 0;
        for (unsigned k = 0; k < 16; ++k)
            sum += along_k(a, line + i / 2 % 2 * 8, k) * along_k(b, i / 4 * 8 + thread % 4 * 2 + i % 2, k);
        s[i] = sum;
    }
}
inline float half_value(unsigned bits) { unsigned short u = bits; _Float16 h; std::memcpy(&h, &u, 2); return (float)h; }
inline void multiply_values(float (&o)[128], const u32 (&p)[4], u64 v) {
    Warp& w = warp_of();
    const unsigned lane = threadIdx.x % 32;
    std::memcpy(w.words[lane], p, 16);
    w.gate.arrive_and_wait();
    float a[2][16];
    for (unsigned r = 0; r < 2; ++r)
        for (unsigned k = 0; k < 16; ++k) a[r][k] = half_value(w.words[lane / 4 * 4 + k % 8 / 2][r + k / 8 * 2] >> 16 * (k % 2));
    w.gate.arrive_and_wait();
    for (unsigned i = 0; i < 128; i += 4)
        for (unsigned j = 0; j < 2; ++j)
            for (unsigned k = 0; k < 16; ++k) {
                const float value = along_n(v, i / 4 * 8 + lane % 4 * 2 + j, k);
                o[i + j] += a[0][k] * value;
                o[i + 2 + j] += a[1][k] * value;
            }
}
inline float exp2_fast(float x) { return std::exp2(x); }
inline u32 pack(float low, float high) {
    _Float16 h[2] = {(_Float16)low, (_Float16)high};
    u32 out;
    std::memcpy(&out, h, 4);
    return out;
}
inline u32 times(u32 pair, u32 factor) {
    return pack(half_value(pair) * half_value(factor), half_value(pair >> 16) * half_value(factor >> 16));
}
inline void meet() { block_of().consumers.arrive_and_wait(); }
inline void share(u32 at, const u32 (&words)[4]) { std::memcpy(block_of().memory + at, words, 16); }
inline void shared(u32 at, u32 (&words)[4]) { std::memcpy(words, block_of().memory + at, 16); }
inline void share(u32 at, const float (&rows)[2]) { for (int r = 0; r < 2; ++r) std::memcpy(block_of().memory + at + 32 * r, rows + r, 4); }
inline void shared(u32 at, float (&rows)[2]) { for (int r = 0; r < 2; ++r) std::memcpy(rows + r, block_of().memory + at + 32 * r, 4); }
inline void read_fresh(const float* at, float (&four)[4]) { std::memcpy(four, at, 16); }
inline float read_fresh(const float* at) { return *at; }
inline u32 count_up(u32* counter, u32 most) {
    std::lock_guard hold(lock);
    const u32 before = *counter;
    *counter = before >= most ? 0 : before + 1;
    return before;
}
inline u32 cluster_rank() { return blockIdx.x % 2; }
inline void barriers_ready() {}
inline void fewer_registers() {}
inline void more_registers() {}
template <class Kernel> void run_cluster(unsigned cluster, unsigned grid, Kernel kernel) {
    for (auto& block : blocks) {
        block.reset(new Block);
        std::memset(block->memory, 0x7e, sizeof block->memory);  // not a number, if read before it is written
    }
    std::vector<std::thread> pool;
    for (unsigned rank = 0; rank < 2; ++rank)
        for (unsigned i = 0; i < 384; ++i)
            pool.emplace_back([=] { threadIdx.x = i; blockIdx.x = cluster * 2 + rank; gridDim.x = grid; kernel(); });
    for (auto& t : pool) t.join();
}
