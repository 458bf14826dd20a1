// Exact attention for heads of 512 on sm_90a: out (N, 512) = softmax(scale q k^T) v, without a mask.
// Compiled by NVRTC with BFLOAT, PARTIAL and CLUSTER defined; no header is needed.
//
// Two blocks of 64 queries form a cluster (or one, where CLUSTER is 1: the same work without sharing copies). Keys and values come in tiles of 64 rows: each block fetches half of every tile
// and the copy engine writes it to both, so the L2 cache is read once for 128 queries. One warpgroup issues copies; two
// multiply. Each of the two owns 256 columns of the output (128 registers a thread, all that fits) and the scores of 32 of
// the 64 keys; they trade probabilities thread by thread, because an accumulator's place is also the operand's.
// The next tile's scores are multiplied before this tile's values, so that the softmax runs while the tensor cores work.

typedef unsigned int u32;
typedef unsigned long long u64;

struct alignas(64) TensorMap { u64 words[16]; };

#if BFLOAT
#define TYPE "bf16"
#else
#define TYPE "f16"
#endif

#define D 512
#define BLOCK_M 64
#define BLOCK_N 64
// places in shared memory, in bytes; 128-byte swizzled panels of 64 columns start at multiples of 1024
#define Q_AT 0        // 8 panels of 64 queries
#define K_AT 65536    // 8 panels of 64 keys
#define V_AT 131072   // 4 steps of 16 keys: 8 panels each
#define P_AT 196608   // probabilities in transit: 2 buffers x 2 warpgroups x 2 steps x 128 threads x 16 bytes
#define M_AT 212992   // row maxima in transit: 2 buffers x 2 warpgroups x 64 rows
#define BARS_AT 214016
#define Q_FULL (BARS_AT)
#define K_FULL(i) (BARS_AT + 8 + (i) * 8)
#define V_FULL(i) (BARS_AT + 72 + (i) * 8)
#define K_EMPTY (BARS_AT + 104)
#define V_EMPTY (BARS_AT + 112)

// ---- the assembly

__device__ __forceinline__ void barrier_init(u32 at, u32 count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory");
}

__device__ __forceinline__ void barrier_expect(u32 at, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_wait(u32 at, u32 parity) {
    asm volatile(
        "{.reg .pred p;\n"
        "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
        "@p bra done;\n bra again;\n done:}\n" ::"r"(at), "r"(parity) : "memory");
}

// this warp is done with a tile: tells the copying threads of both blocks
__device__ __forceinline__ void release(u32 at, u32 lane) {
    if (lane < CLUSTER)
        asm volatile(
            "{.reg .b32 there;\n mapa.shared::cluster.u32 there, %0, %1;\n"
            "mbarrier.arrive.shared::cluster.b64 _, [there];}\n" ::"r"(at), "r"(lane) : "memory");
}

__device__ __forceinline__ void cluster_sync() {
    __syncwarp();
    asm volatile("barrier.cluster.arrive.release;\n barrier.cluster.wait.acquire;" ::: "memory");
}

// a box of (group, row, 64 columns) to this block
__device__ __forceinline__ void copy(const TensorMap* map, u32 to, u32 barrier, int row, int group, int head, int batch) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5, %6}], [%7];"
        ::"r"(to), "l"(map), "r"(0), "r"(row), "r"(group), "r"(head), "r"(batch), "r"(barrier) : "memory");
}

// the same to every block of the cluster, at the same place, telling the same barrier of each
__device__ __forceinline__ void copy_all(const TensorMap* map, u32 to, u32 barrier, int row, int group, int head, int batch) {
    if (CLUSTER == 1) return copy(map, to, barrier, row, group, head, batch);
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
        " [%0], [%1, {%2, %3, %4, %5, %6}], [%7], %8;"
        ::"r"(to), "l"(map), "r"(0), "r"(row), "r"(group), "r"(head), "r"(batch), "r"(barrier), "h"((unsigned short)3)
        : "memory");
}

// shared-memory matrix descriptor, 128-byte swizzle (PTX ISA, matrix descriptor format)
__device__ __forceinline__ u64 descriptor(u32 at, u32 leading, u32 stride) {
    u64 out = (u64)(at >> 4 & 0x3fff) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32 | (u64)1 << 62;
    asm volatile("" : "+l"(out));  // computed where it is used: hoisted out of the loop, dozens of them spill
    return out;
}

// the same matrix further on
__device__ __forceinline__ u64 further(u64 descriptor, u32 bytes) { return descriptor + (bytes >> 4); }

__device__ __forceinline__ void multiply_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void multiply_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void multiply_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

// s (64 x 32) = or += A (64 x 16, shared) B (32 x 16, shared)^T
__device__ __forceinline__ void multiply_scores(float (&s)[16], u64 a, u64 b, int add) {
    asm volatile(
        "{.reg .pred p;\n setp.ne.b32 p, %18, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32." TYPE "." TYPE " {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
        "}, %16, %17, p, 1, 1, 0, 0;}\n"
        : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3]), "+f"(s[4]), "+f"(s[5]), "+f"(s[6]), "+f"(s[7]),
          "+f"(s[8]), "+f"(s[9]), "+f"(s[10]), "+f"(s[11]), "+f"(s[12]), "+f"(s[13]), "+f"(s[14]), "+f"(s[15])
        : "l"(a), "l"(b), "r"(add));
}

// o (64 x 256) += P (64 x 16, registers) V (16 x 256, shared)
__device__ __forceinline__ void multiply_values(float (&o)[128], const u32 (&p)[4], u64 v) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n256k16.f32." TYPE "." TYPE " {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "
        "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "
        "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, "
        "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, "
        "%101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, "
        "%117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
        "}, {%128, %129, %130, %131}, %132, 1, 1, 1, 1;\n"
        :
          "+f"(o[0]), "+f"(o[1]), "+f"(o[2]), "+f"(o[3]), "+f"(o[4]), "+f"(o[5]), "+f"(o[6]), "+f"(o[7]), "+f"(o[8]),
          "+f"(o[9]), "+f"(o[10]), "+f"(o[11]), "+f"(o[12]), "+f"(o[13]), "+f"(o[14]), "+f"(o[15]), "+f"(o[16]),
          "+f"(o[17]), "+f"(o[18]), "+f"(o[19]), "+f"(o[20]), "+f"(o[21]), "+f"(o[22]), "+f"(o[23]), "+f"(o[24]),
          "+f"(o[25]), "+f"(o[26]), "+f"(o[27]), "+f"(o[28]), "+f"(o[29]), "+f"(o[30]), "+f"(o[31]), "+f"(o[32]),
          "+f"(o[33]), "+f"(o[34]), "+f"(o[35]), "+f"(o[36]), "+f"(o[37]), "+f"(o[38]), "+f"(o[39]), "+f"(o[40]),
          "+f"(o[41]), "+f"(o[42]), "+f"(o[43]), "+f"(o[44]), "+f"(o[45]), "+f"(o[46]), "+f"(o[47]), "+f"(o[48]),
          "+f"(o[49]), "+f"(o[50]), "+f"(o[51]), "+f"(o[52]), "+f"(o[53]), "+f"(o[54]), "+f"(o[55]), "+f"(o[56]),
          "+f"(o[57]), "+f"(o[58]), "+f"(o[59]), "+f"(o[60]), "+f"(o[61]), "+f"(o[62]), "+f"(o[63]), "+f"(o[64]),
          "+f"(o[65]), "+f"(o[66]), "+f"(o[67]), "+f"(o[68]), "+f"(o[69]), "+f"(o[70]), "+f"(o[71]), "+f"(o[72]),
          "+f"(o[73]), "+f"(o[74]), "+f"(o[75]), "+f"(o[76]), "+f"(o[77]), "+f"(o[78]), "+f"(o[79]), "+f"(o[80]),
          "+f"(o[81]), "+f"(o[82]), "+f"(o[83]), "+f"(o[84]), "+f"(o[85]), "+f"(o[86]), "+f"(o[87]), "+f"(o[88]),
          "+f"(o[89]), "+f"(o[90]), "+f"(o[91]), "+f"(o[92]), "+f"(o[93]), "+f"(o[94]), "+f"(o[95]), "+f"(o[96]),
          "+f"(o[97]), "+f"(o[98]), "+f"(o[99]), "+f"(o[100]), "+f"(o[101]), "+f"(o[102]), "+f"(o[103]), "+f"(o[104]),
          "+f"(o[105]), "+f"(o[106]), "+f"(o[107]), "+f"(o[108]), "+f"(o[109]), "+f"(o[110]), "+f"(o[111]),
          "+f"(o[112]), "+f"(o[113]), "+f"(o[114]), "+f"(o[115]), "+f"(o[116]), "+f"(o[117]), "+f"(o[118]),
          "+f"(o[119]), "+f"(o[120]), "+f"(o[121]), "+f"(o[122]), "+f"(o[123]), "+f"(o[124]), "+f"(o[125]),
          "+f"(o[126]), "+f"(o[127])
        : "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(v));
}

__device__ __forceinline__ float exp2_fast(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

__device__ __forceinline__ u32 pack(float low, float high) {
    u32 out;
    asm("cvt.rn." TYPE "x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

__device__ __forceinline__ u32 times(u32 pair, u32 factor) {
    u32 out;
    asm("mul." TYPE "x2 %0, %1, %2;" : "=r"(out) : "r"(pair), "r"(factor));
    return out;
}

// after a wait: keeps the compiler from reading accumulators before it
template <int N> __device__ __forceinline__ void settle(float (&r)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(r[i])::"memory");
}

__device__ __forceinline__ void meet() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

__device__ __forceinline__ void share(u32 at, const u32 (&words)[4]) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};"
                 ::"r"(at), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]) : "memory");
}

__device__ __forceinline__ void shared(u32 at, u32 (&words)[4]) {
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3]) : "r"(at) : "memory");
}

// two floats, eight rows apart
__device__ __forceinline__ void share(u32 at, const float (&rows)[2]) {
    asm volatile("st.shared.f32 [%0], %1;\n st.shared.f32 [%0 + 32], %2;" ::"r"(at), "f"(rows[0]), "f"(rows[1]) : "memory");
}

__device__ __forceinline__ void shared(u32 at, float (&rows)[2]) {
    asm volatile("ld.shared.f32 %0, [%2];\n ld.shared.f32 %1, [%2 + 32];" : "=f"(rows[0]), "=f"(rows[1]) : "r"(at) : "memory");
}

// four floats that other blocks wrote: past the cache of this processor, which could hold older ones
__device__ __forceinline__ void read_fresh(const float* at, float (&four)[4]) {
    asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(four[0]), "=f"(four[1]), "=f"(four[2]), "=f"(four[3]) : "l"(at) : "memory");
}

__device__ __forceinline__ float read_fresh(const float* at) {
    float out;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(out) : "l"(at) : "memory");
    return out;
}

// counts up to `most` and then from 0 again; what was written before is seen by whoever counts later
__device__ __forceinline__ u32 count_up(u32* counter, u32 most) {
    u32 before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;" : "=r"(before) : "l"(counter), "r"(most) : "memory");
    return before;
}

__device__ __forceinline__ u32 cluster_rank() {
    u32 rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

__device__ __forceinline__ void barriers_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 24;"); }
__device__ __forceinline__ void more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 240;"); }

// ---- from here on, no assembly

// the sum over D of one tile's scores: queries of this block, 32 keys of this warpgroup
__device__ __forceinline__ void scores(float (&s)[16], u32 memory, int group, u32 parity) {
    const u64 q = descriptor(memory + Q_AT, 16, 1024), k = descriptor(memory + K_AT + group * 4096, 16, 1024);
    multiply_begin();
#pragma unroll
    for (int panel = 0; panel < 8; ++panel) {
        barrier_wait(memory + K_FULL(panel), parity);
#pragma unroll
        for (int step = 0; step < 4; ++step)
            multiply_scores(s, further(q, panel * 8192 + step * 32), further(k, panel * 8192 + step * 32), panel + step);
    }
    multiply_commit();
}

// one tile's values into this warpgroup's columns; its own keys first, which are the tile's last for the second
__device__ __forceinline__ void values(float (&o)[128], const u32 (&own)[2][4], const u32 (&other)[2][4], u32 memory, int group,
                                       u32 parity) {
    const u64 v = descriptor(memory + V_AT + group * 8192, 2048, 1024);
#pragma unroll
    for (int step = 0; step < 4; ++step) barrier_wait(memory + V_FULL(step), parity);
    // nothing branches from here to the commit: ptxas would close the group there, and `multiply_wait<1>` wait for it
    multiply_begin();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
        const int place = step ^ group * 2;
        multiply_values(o, step < 2 ? own[step & 1] : other[step & 1], further(v, place * 16384));
    }
    multiply_commit();
}

struct Row { float top[2], total[2]; };

// probabilities of this warpgroup's 32 keys relative to its own maximum `top`; both go to shared memory
__device__ __forceinline__ void softmax(float (&s)[16], Row& row, float (&top)[2], u32 (&p)[2][4], u32 memory, int buffer,
                                        int group, int left, float scale) {
    const int thread = threadIdx.x % 128, t = thread % 4;
    if (left < BLOCK_N) {
#pragma unroll
        for (int i = 0; i < 16; ++i)
            if (group * 32 + i / 4 * 8 + t * 2 + (i & 1) >= left) s[i] = __int_as_float(0xff800000);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        float best = fmaxf(s[2 * r], s[2 * r + 1]);
#pragma unroll
        for (int j = 1; j < 4; ++j) best = fmaxf(best, fmaxf(s[4 * j + 2 * r], s[4 * j + 2 * r + 1]));
        best = fmaxf(best, __shfl_xor_sync(0xffffffff, best, 1));
        best = fmaxf(best, __shfl_xor_sync(0xffffffff, best, 2));
        top[r] = fmaxf(row.top[r], best * scale);
        const float shift = top[r] == __int_as_float(0xff800000) ? 0 : top[r];  // every key so far lies past the end
        float sum = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                s[4 * j + 2 * r + i] = exp2_fast(s[4 * j + 2 * r + i] * scale - shift);
                sum += s[4 * j + 2 * r + i];
            }
        row.total[r] = row.total[r] * exp2_fast(row.top[r] - shift) + sum;
    }
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) p[step][i] = pack(s[step * 8 + 2 * i], s[step * 8 + 2 * i + 1]);
        share(memory + P_AT + ((buffer * 2 + group) * 2 + step) * 2048 + thread * 16, p[step]);
    }
    if (t == 0) share(memory + M_AT + (buffer * 2 + group) * 256 + (thread / 32 * 16 + thread % 32 / 4) * 4, top);
}

// after `meet`: the other warpgroup's probabilities, all four steps relative to the common maximum, and o rescaled to it
__device__ __forceinline__ void agree(float (&o)[128], Row& row, const float (&top)[2], const u32 (&next)[2][4], u32 (&own)[2][4],
                                      u32 (&other)[2][4], u32 memory, int buffer, int group) {
    const int thread = threadIdx.x % 128;
    const u32 at = memory + M_AT + (buffer * 2 + 1 - group) * 256 + (thread / 32 * 16 + thread % 32 / 4) * 4;
    float theirs[2], factor[2], mine[2], them[2];
    shared(at, theirs);
#pragma unroll
    for (int step = 0; step < 2; ++step)
        shared(memory + P_AT + ((buffer * 2 + 1 - group) * 2 + step) * 2048 + thread * 16, other[step]);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const float common = fmaxf(top[r], theirs[r]);  // finite: every tile has a key that counts
        factor[r] = exp2_fast(row.top[r] - common);
        mine[r] = exp2_fast(top[r] - common);
        them[r] = exp2_fast(theirs[r] - common);
        row.top[r] = common;
        row.total[r] *= mine[r];
    }
    // a new maximum is rare after the first tiles, and where there is none every factor is exactly 1
    if (__any_sync(0xffffffff, factor[0] != 1 || factor[1] != 1)) {
#pragma unroll
        for (int i = 0; i < 128; i += 4) {
            o[i] *= factor[0]; o[i + 1] *= factor[0]; o[i + 2] *= factor[1]; o[i + 3] *= factor[1];
        }
    }
    // without a branch: a plain copy of `next` would share its registers, which a multiplication under way still reads
    const u32 m0 = pack(mine[0], mine[0]), m1 = pack(mine[1], mine[1]);
    const u32 t0 = pack(them[0], them[0]), t1 = pack(them[1], them[1]);
#pragma unroll
    for (int step = 0; step < 2; ++step)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            own[step][i] = times(next[step][i], i & 1 ? m1 : m0);
            other[step][i] = times(other[step][i], i & 1 ? t1 : t0);
        }
}

#if PARTIAL
// by the last of the blocks that share a block of queries: all splits' results by their log-sum-exp, always in the same
// order, into `out` and `lse`. `parts` and `part_lse` are at the first split's, `step` rows before the next one's.
__device__ __forceinline__ void merge(const float* parts, const float* part_lse, long long step, int splits, unsigned short* out,
                                      float* lse, int rows, float* weights) {
    const int thread = threadIdx.x - 128, lane = thread % 32;
    if (thread < rows) {
        float top = __int_as_float(0xff800000), total = 0;
        for (int i = 0; i < splits; ++i) top = fmaxf(top, read_fresh(part_lse + i * step + thread));
        for (int i = 0; i < splits; ++i) {
            const float weight = exp2_fast((read_fresh(part_lse + i * step + thread) - top) * 1.4426950408889634f);
            weights[i * BLOCK_M + thread] = weight;
            total += weight;
        }
        for (int i = 0; i < splits; ++i) weights[i * BLOCK_M + thread] /= total;
        lse[thread] = top + log2f(total) * 0.6931471805599453f;
    }
    meet();
    for (int row = thread / 32; row < rows; row += 8) {
        float sum[4][4] = {};
#pragma unroll 2
        for (int i = 0; i < splits; ++i) {
            const float weight = weights[i * BLOCK_M + row];
            const float* at = parts + (i * step + row) * D + lane * 4;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                float four[4];
                read_fresh(at + j * 128, four);
#pragma unroll
                for (int c = 0; c < 4; ++c) sum[j][c] += weight * four[c];
            }
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            u32* to = (u32*)(out + (long long)row * D + j * 128 + lane * 4);
            to[0] = pack(sum[j][0], sum[j][1]);
            to[1] = pack(sum[j][2], sum[j][3]);
        }
    }
}
#endif

// q_map: (64 columns, rows, 8 groups of columns, heads, batches) in boxes of (64, 64, 8); k_map in (64, 32, 1); v_map in
// (64, 16, 2). out: contiguous (batches, heads, n_queries, 512); lse likewise, natural logarithm. If PARTIAL, parts and
// part_lse are the same of each split, float, and counters (batches, heads, blocks_m) are 0, before and afterwards.
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(384, 1) attention(
    const __grid_constant__ TensorMap q_map, const __grid_constant__ TensorMap k_map, const __grid_constant__ TensorMap v_map,
    unsigned short* __restrict__ out, float* __restrict__ lse, float* parts, float* part_lse, u32* counters, int heads,
    int n_queries, int n_keys, int blocks_m, int splits, int tiles_per_split, float scale) {
    extern __shared__ __align__(1024) unsigned char storage[];
    const u32 memory = (u32)__cvta_generic_to_shared(storage);
    const int block_m = blockIdx.x % blocks_m, rest = blockIdx.x / blocks_m;  // blocks_m divides by CLUSTER: it shares the rest
    const int split = rest % splits, head = rest / splits;
    const int h = head % heads, b = head / heads;
    const u32 rank = cluster_rank();
    const int first = split * tiles_per_split;
    const int all = (n_keys + BLOCK_N - 1) / BLOCK_N;
    const int tiles = first + tiles_per_split < all ? tiles_per_split : all - first;

    if (threadIdx.x == 0) {
        barrier_init(memory + Q_FULL, 1);
        for (int i = 0; i < 8; ++i) barrier_init(memory + K_FULL(i), 1);
        for (int i = 0; i < 4; ++i) barrier_init(memory + V_FULL(i), 1);
        barrier_init(memory + K_EMPTY, CLUSTER * 8);  // a warp each
        barrier_init(memory + V_EMPTY, CLUSTER * 8);
        barriers_ready();
    }
    cluster_sync();

    if (threadIdx.x < 128) {
        fewer_registers();
        if (threadIdx.x == 0) {
            barrier_expect(memory + Q_FULL, 65536);
            copy(&q_map, memory + Q_AT, memory + Q_FULL, block_m * BLOCK_M, 0, h, b);
#pragma unroll 1
            for (int i = 0; i < tiles; ++i) {
                if (i > 0) barrier_wait(memory + K_EMPTY, (i - 1) & 1);
#pragma unroll 1
                for (int panel = 0; panel < 8; ++panel) {
                    barrier_expect(memory + K_FULL(panel), 8192);
                    for (u32 half = rank; half < 2; half += CLUSTER)
                        copy_all(&k_map, memory + K_AT + panel * 8192 + half * 4096, memory + K_FULL(panel),
                                 (first + i) * BLOCK_N + half * 32, panel, h, b);
                }
            }
        } else if (threadIdx.x == 32) {
#pragma unroll 1
            for (int i = 0; i < tiles; ++i) {
                if (i > 0) barrier_wait(memory + V_EMPTY, (i - 1) & 1);
#pragma unroll 1
                for (int step = 0; step < 4; ++step) {
                    barrier_expect(memory + V_FULL(step), 16384);
                    for (u32 half = rank; half < 2; half += CLUSTER)
                        for (int group = 0; group < 2; ++group)
                            copy_all(&v_map, memory + V_AT + step * 16384 + group * 8192 + half * 4096, memory + V_FULL(step),
                                     (first + i) * BLOCK_N + step * 16, group * 4 + half * 2, h, b);
                }
            }
        }
    } else {
        more_registers();
        const int group = __shfl_sync(0xffffffff, (int)threadIdx.x / 128 - 1, 0);  // known to be one for the warp
        const int thread = threadIdx.x % 128, lane = threadIdx.x % 32;
        float o[128], s[16], top[2];
        u32 own[2][4], other[2][4], next[2][4];
        Row row;
#pragma unroll
        for (int i = 0; i < 128; ++i) o[i] = 0;
        row.top[0] = row.top[1] = __int_as_float(0xff800000);
        row.total[0] = row.total[1] = 0;
        const int last = n_keys - (first + tiles - 1) * BLOCK_N;  // keys of the last tile that count, or more than a tile

        barrier_wait(memory + Q_FULL, 0);
        scores(s, memory, group, 0);
        multiply_wait<0>();
        settle(s);
        release(memory + K_EMPTY, lane);
        softmax(s, row, top, next, memory, 0, group, tiles == 1 ? last : BLOCK_N, scale);
        meet();
        agree(o, row, top, next, own, other, memory, 0, group);
        for (int i = 0; i + 1 < tiles; ++i) {
            scores(s, memory, group, (i + 1) & 1);
            values(o, own, other, memory, group, i & 1);
            multiply_wait<1>();
            settle(s);
            release(memory + K_EMPTY, lane);
            softmax(s, row, top, next, memory, (i + 1) & 1, group, i + 2 == tiles ? last : BLOCK_N, scale);
            multiply_wait<0>();
            settle(o);
            release(memory + V_EMPTY, lane);
            meet();
            agree(o, row, top, next, own, other, memory, (i + 1) & 1, group);
        }
        values(o, own, other, memory, group, (tiles - 1) & 1);
        multiply_wait<0>();
        settle(o);

        // each warpgroup summed its own keys: add the other's
        const int line = thread / 32 * 16 + thread % 32 / 4;
        float* sums = (float*)(storage + M_AT);
        meet();
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            row.total[r] += __shfl_xor_sync(0xffffffff, row.total[r], 1);
            row.total[r] += __shfl_xor_sync(0xffffffff, row.total[r], 2);
            if (thread % 4 == 0) sums[group * 64 + line + r * 8] = row.total[r];
        }
        meet();
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int at = block_m * BLOCK_M + line + r * 8;
            if (at >= n_queries) continue;
            const float total = sums[line + r * 8] + sums[64 + line + r * 8];
            const float inverse = 1.0f / total;
            const long long place = ((long long)split * (gridDim.x / blocks_m / splits) + head) * n_queries + at;
            if (group == 0 && thread % 4 == 0)
                (PARTIAL ? part_lse : lse)[place] = (row.top[r] + log2f(total)) * 0.6931471805599453f;
#pragma unroll
            for (int j = 0; j < 32; ++j) {
                const long long to = place * D + group * 256 + j * 8 + thread % 4 * 2;
                const float low = o[4 * j + 2 * r] * inverse, high = o[4 * j + 2 * r + 1] * inverse;
#if PARTIAL
                *(float2*)(parts + to) = make_float2(low, high);
#else
                *(u32*)(out + to) = pack(low, high);
#endif
            }
        }
#if PARTIAL
        u32* counted = (u32*)(sums + 128);
        meet();
        if (threadIdx.x == 128) *counted = count_up(counters + head * blocks_m + block_m, splits - 1);
        meet();
        const int from = block_m * BLOCK_M;
        if (*counted == splits - 1 && from < n_queries) {
            const long long place = (long long)head * n_queries + from;
            const long long step = (long long)(gridDim.x / blocks_m / splits) * n_queries;
            merge(parts + place * D, part_lse + place, step, splits, out + place * D, lse + place,
                  n_queries - from < BLOCK_M ? n_queries - from : BLOCK_M, (float*)(storage + K_AT));
        }
#endif
    }
    cluster_sync();  // neither block leaves while the other may still write to it or signal it
}
