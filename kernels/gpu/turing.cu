// Exact attention for cards without Ampere's instructions: mma.m16n8k8, ldmatrix, no cp.async, at most 64 KB of shared
// memory. Compiled by NVRTC with D, ROW_GROUPS, COLUMN_GROUPS, BLOCK_N and CAUSAL defined; no header is needed.
//
// A row group is 16 queries. With one column group a warp owns its rows' scores and output, as in FlashAttention-2.
// With four (D = 512) the output of 16 rows is spread over four warps, 128 columns each, because 16 x 512 floats do not
// fit one warp's registers; the four share the scores' work (two key blocks x two halves of D) through shared memory.
// The step of 8 in every dimension is what lets heads of 40, 80 and 160 go unpadded.

typedef unsigned int u32;

#define WARPS (ROW_GROUPS * COLUMN_GROUPS)
#define THREADS (WARPS * 32)
#define BLOCK_M (ROW_GROUPS * 16)
// bytes between rows must spread eight rows of 16 bytes over all banks; 80 does so by itself
#define PAD (D == 40 ? 0 : 8)
#define PITCH (D + PAD)
#define KEY_BLOCKS (BLOCK_N / 8)
#define D_PARTS (COLUMN_GROUPS == 1 ? 1 : COLUMN_GROUPS / KEY_BLOCKS)
#define D_STEPS (D / D_PARTS / 8)
#define COLUMN_BLOCKS (D / COLUMN_GROUPS / 8)
#define VECTORS (BLOCK_N * D / 8)
#define LOADS ((VECTORS + THREADS - 1) / THREADS)
#define SCORE_PITCH (BLOCK_N + 2)

static_assert(D % 8 == 0 && BLOCK_N % 8 == 0, "tiles are made of 8 x 8 blocks");
static_assert(COLUMN_GROUPS == 1 || (COLUMN_GROUPS % KEY_BLOCKS == 0 && D % (8 * COLUMN_GROUPS) == 0), "uneven split");

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ u32 pack(float low, float high) {
    u32 out;
    asm("{.reg .b16 l, h;\n cvt.rn.f16.f32 l, %1;\n cvt.rn.f16.f32 h, %2;\n mov.b32 %0, {l, h};}\n"
        : "=r"(out) : "f"(low), "f"(high));
    return out;
}

__device__ __forceinline__ float exp2_fast(float x) {
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

__device__ __forceinline__ void multiply(float (&c)[4], u32 a0, u32 a1, u32 b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(b));
}

// COUNT 8 x 8 matrices; lane i gives the address of row i % 8 of matrix i / 8
template <int COUNT, bool TRANSPOSED> __device__ __forceinline__ void load_matrices(u32 (&m)[4], u32 at) {
    if (COUNT == 4 && TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(at) : "memory");
    else if (COUNT == 4)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"(at) : "memory");
    else if (COUNT == 2 && TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                     : "=r"(m[0]), "=r"(m[1]) : "r"(at) : "memory");
    else if (COUNT == 2)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                     : "=r"(m[0]), "=r"(m[1]) : "r"(at) : "memory");
    else if (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(m[0]) : "r"(at) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(m[0]) : "r"(at) : "memory");
}

// keys x D halves, from global memory to registers; rows past the end are zero
__device__ __forceinline__ void fetch(uint4 (&part)[LOADS], const unsigned short* base, long long stride, int first, int n) {
#pragma unroll
    for (int i = 0; i < LOADS; ++i) {
        int vector = i * THREADS + threadIdx.x;
        int row = vector / (D / 8), column = vector % (D / 8) * 8;
        part[i] = make_uint4(0, 0, 0, 0);
        if (vector < VECTORS && first + row < n)
            part[i] = *(const uint4*)(base + (first + row) * stride + column);
    }
}

__device__ __forceinline__ void keep(const uint4 (&part)[LOADS], unsigned short* tile) {
#pragma unroll
    for (int i = 0; i < LOADS; ++i) {
        int vector = i * THREADS + threadIdx.x;
        if (vector < VECTORS) *(uint4*)(tile + vector / (D / 8) * PITCH + vector % (D / 8) * 8) = part[i];
    }
}

// one key block's scores over this warp's part of D
template <int FROM> __device__ __forceinline__ void score_steps(float (&s)[4], const u32 (&q)[D_STEPS][2], u32 row) {
    if constexpr (FROM < D_STEPS) {
        constexpr int COUNT = D_STEPS - FROM >= 4 ? 4 : D_STEPS - FROM >= 2 ? 2 : 1;
        u32 b[4];
        load_matrices<COUNT, false>(b, row + (FROM + (threadIdx.x / 8 & (COUNT - 1))) * 16);
#pragma unroll
        for (int i = 0; i < COUNT; ++i) multiply(s, q[FROM + i][0], q[FROM + i][1], b[i]);
        score_steps<FROM + COUNT>(s, q, row);
    }
}

// eight keys' contribution to this warp's columns
template <int FROM> __device__ __forceinline__ void output_steps(float (&o)[COLUMN_BLOCKS][4], u32 p0, u32 p1, u32 row) {
    if constexpr (FROM < COLUMN_BLOCKS) {
        constexpr int COUNT = COLUMN_BLOCKS - FROM >= 4 ? 4 : COLUMN_BLOCKS - FROM >= 2 ? 2 : 1;
        u32 b[4];
        load_matrices<COUNT, true>(b, row + (FROM + (threadIdx.x / 8 & (COUNT - 1))) * 16);
#pragma unroll
        for (int i = 0; i < COUNT; ++i) multiply(o[FROM + i], p0, p1, b[i]);
        output_steps<FROM + COUNT>(o, p0, p1, row);
    }
}

// q, k, v: rows of D halves, 16-byte aligned; strides in halves. One block: BLOCK_M queries of one head.
extern "C" __global__ void __launch_bounds__(THREADS) attention(
    const unsigned short* __restrict__ q, const unsigned short* __restrict__ k, const unsigned short* __restrict__ v,
    unsigned short* __restrict__ out, float* __restrict__ lse,
    long long qb, long long qh, long long qn, long long kb, long long kh, long long kn, long long vb, long long vh,
    long long vn, long long ob, long long oh, long long on, int heads, int n_queries, int n_keys, int blocks_m, float scale) {
    extern __shared__ __align__(16) unsigned short memory[];
    unsigned short* key_tile = memory;
    unsigned short* value_tile = memory + BLOCK_N * PITCH;
    float* scores = (float*)(memory + 2 * BLOCK_N * PITCH);

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row_group = warp / COLUMN_GROUPS, column_group = warp % COLUMN_GROUPS;
    const int g = lane / 4, t = lane % 4;
    const int head = blockIdx.x / blocks_m;
    const int first_row = blockIdx.x % blocks_m * BLOCK_M;
    const int row = first_row + row_group * 16 + g;
    q += head / heads * qb + head % heads * qh;
    k += head / heads * kb + head % heads * kh;
    v += head / heads * vb + head % heads * vh;
    out += head / heads * ob + head % heads * oh;

    // this warp's part of the scores' sum over D
    const int d_part = COLUMN_GROUPS == 1 ? 0 : column_group / KEY_BLOCKS;
    const int key_block = COLUMN_GROUPS == 1 ? 0 : column_group % KEY_BLOCKS;
    u32 query[D_STEPS][2];
#pragma unroll
    for (int i = 0; i < D_STEPS; ++i) {
        int column = d_part * (D / D_PARTS) + i * 8 + t * 2;
        query[i][0] = row < n_queries ? *(const u32*)(q + row * qn + column) : 0;
        query[i][1] = row + 8 < n_queries ? *(const u32*)(q + (row + 8) * qn + column) : 0;
    }

    float o[COLUMN_BLOCKS][4];
#pragma unroll
    for (int i = 0; i < COLUMN_BLOCKS; ++i) o[i][0] = o[i][1] = o[i][2] = o[i][3] = 0;
    const float none = __int_as_float(0xff800000);
    float top[2] = {none, none}, total[2] = {0, 0};

    int end = n_keys;
    if (CAUSAL && first_row + BLOCK_M < end) end = first_row + BLOCK_M;
    uint4 part[LOADS];
    fetch(part, k, kn, 0, n_keys);
    keep(part, key_tile);
    __syncthreads();
    for (int start = 0; start < end; start += BLOCK_N) {
        fetch(part, v, vn, start, n_keys);
        float s[KEY_BLOCKS][4];
        if (COLUMN_GROUPS == 1) {
#pragma unroll
            for (int j = 0; j < KEY_BLOCKS; ++j) {
                s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0;
                score_steps<0>(s[j], query, shared_address(key_tile + (j * 8 + lane % 8) * PITCH));
            }
        } else {
            float own[4] = {0, 0, 0, 0};
            score_steps<0>(own, query,
                           shared_address(key_tile + (key_block * 8 + lane % 8) * PITCH + d_part * (D / D_PARTS)));
            float* at = scores + ((row_group * D_PARTS + d_part) * 16 + g) * SCORE_PITCH + key_block * 8 + t * 2;
            *(float2*)at = make_float2(own[0], own[1]);
            *(float2*)(at + 8 * SCORE_PITCH) = make_float2(own[2], own[3]);
        }
        keep(part, value_tile);
        __syncthreads();
        if (start + BLOCK_N < end) fetch(part, k, kn, start + BLOCK_N, n_keys);
        if (COLUMN_GROUPS > 1) {
#pragma unroll
            for (int j = 0; j < KEY_BLOCKS; ++j) {
                s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0;
#pragma unroll
                for (int part_of_d = 0; part_of_d < D_PARTS; ++part_of_d) {
                    const float* at = scores + ((row_group * D_PARTS + part_of_d) * 16 + g) * SCORE_PITCH + j * 8 + t * 2;
                    float2 low = *(const float2*)at, high = *(const float2*)(at + 8 * SCORE_PITCH);
                    s[j][0] += low.x; s[j][1] += low.y; s[j][2] += high.x; s[j][3] += high.y;
                }
            }
        }
        if (start + BLOCK_N > n_keys || (CAUSAL && start + BLOCK_N > first_row)) {
#pragma unroll
            for (int j = 0; j < KEY_BLOCKS; ++j)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    int key = start + j * 8 + t * 2 + (i & 1);
                    if (key >= n_keys || (CAUSAL && key > row + (i / 2) * 8)) s[j][i] = none;
                }
        }
        float factor[2], shift[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float best = none;
#pragma unroll
            for (int j = 0; j < KEY_BLOCKS; ++j) best = fmaxf(best, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
            best = fmaxf(best, __shfl_xor_sync(0xffffffff, best, 1));
            best = fmaxf(best, __shfl_xor_sync(0xffffffff, best, 2));
            best = fmaxf(top[r], best * scale);
            shift[r] = best == none ? 0 : best;  // a row without a key yet
            factor[r] = exp2_fast(top[r] - shift[r]);
            top[r] = best;
            total[r] *= factor[r];
        }
#pragma unroll
        for (int i = 0; i < COLUMN_BLOCKS; ++i) {
            o[i][0] *= factor[0]; o[i][1] *= factor[0]; o[i][2] *= factor[1]; o[i][3] *= factor[1];
        }
#pragma unroll
        for (int j = 0; j < KEY_BLOCKS; ++j) {
            float p0 = exp2_fast(s[j][0] * scale - shift[0]), p1 = exp2_fast(s[j][1] * scale - shift[0]);
            float p2 = exp2_fast(s[j][2] * scale - shift[1]), p3 = exp2_fast(s[j][3] * scale - shift[1]);
            total[0] += p0 + p1;
            total[1] += p2 + p3;
            output_steps<0>(o, pack(p0, p1), pack(p2, p3),
                            shared_address(value_tile + (j * 8 + lane % 8) * PITCH + column_group * (D / COLUMN_GROUPS)));
        }
        if (start + BLOCK_N < end) keep(part, key_tile);
        __syncthreads();
    }

#pragma unroll
    for (int r = 0; r < 2; ++r) {
        total[r] += __shfl_xor_sync(0xffffffff, total[r], 1);
        total[r] += __shfl_xor_sync(0xffffffff, total[r], 2);
        int at = row + r * 8;
        if (at < n_queries) {
            float inverse = 1.0f / total[r];
#pragma unroll
            for (int i = 0; i < COLUMN_BLOCKS; ++i)
                *(u32*)(out + at * on + column_group * (D / COLUMN_GROUPS) + i * 8 + t * 2) =
                    pack(o[i][2 * r] * inverse, o[i][2 * r + 1] * inverse);
            if (column_group == 0 && t == 0)
                lse[(long long)head * n_queries + at] = (top[r] + log2f(total[r])) * 0.6931471805599453f;
        }
    }
}
