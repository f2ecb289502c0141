// The kernel of 9.0 for few rows of a, which takes as long as reading the weight does.
//
// What keeps a device from reading at full speed is mostly that tiles of a fixed size do not come
// out even on its multiprocessors. Here every block takes an equal share: as many rows of the
// weight as it takes to give each block one tile (or as few as its accumulators allow), and,
// where that would be too narrow, a stretch of K, the blocks of a cluster adding up through
// distributed shared memory in a fixed order. No workspace, no second kernel.
//
// wgmma computes c^T = b^T a^T: 64 rows of the weight by kTokens rows of a. One warp keeps a ring
// of stages full by tensor copies; two warpgroups multiply, each 64 of the tile's rows, or where it
// has no more, every other unit of K. A tile's rows need not be 64 or 128: what the MMA reads
// beyond them lands in rows that nobody stores.
#pragma once

#include "common/async_copy.cuh"
#include "common/pipeline.cuh"
#include "common/shared_memory.cuh"
#include "scaled_mm/collective.cuh"
#include "scaled_mm/sm90_stream.h"
#include "scaled_mm/sm90_wgmma.cuh"

namespace kernelpkg {

template <class ElementAct, Scales kScales, int kTokens>
struct Sm90Stream {
  using Gate = gates::scaled_mm_sm90;
  using Params = StreamParams;
  static constexpr int kThreads = kStreamThreads;
  static constexpr int kMinBlocks = 1;
  static constexpr size_t kSharedMemory = kStreamShared;
  static constexpr bool kBlocks = kScales == Scales::kBlock;
  static constexpr int kConsumers = kThreads - 32;
  static constexpr int kSums = kTokens / 2;  // accumulators of a thread in 64 rows
  static constexpr uint32_t kRowBytes = kScaleBlock;  // a unit of K in one row

  static size_t workspace_bytes(const ScaledMmArgs&, const ScaledMmDevice&) { return 0; }

  static Status launch(const char* name, const void* kernel, const ScaledMmArgs& args,
                       const ScaledMmDevice&) {
    return stream_launch(name, kernel, kTokens, args);
  }

  // A block's place and its shared memory. All of it is the same for all threads of a warp, and the
  // compiler knows: only then does it start a copy in a few instructions.
  struct Block {
    const Params& params;
    uint32_t ring, scale_ring, sums, factors, barriers;
    uint32_t unit_bytes;
    int part;        // of K, the rank within the cluster
    int begin, end;  // units of K

    __device__ __forceinline__ Block(const Params& p, const char* shared_memory) : params(p) {
      ring = shared_address(shared_memory);
      barriers = ring + kStreamShared - kStreamBarrierBytes;
      factors = barriers - stream_factor_bytes(kTokens, kBlocks);
      scale_ring = ring + stream_ring_bytes(kTokens, kBlocks);
      sums = ring + p.sums;
      unit_bytes = (p.rows + p.tokens) * kRowBytes;
      part = p.parts > 1 ? __shfl_sync(~0u, ptx::cluster_rank(), 0) : 0;
      const int units = (p.k + kScaleBlock - 1) / kScaleBlock;
      begin = units * part / p.parts;
      end = units * (part + 1) / p.parts;
    }
    __device__ __forceinline__ int first_tile() const {
      return static_cast<int>(blockIdx.x) / params.parts;
    }
    __device__ __forceinline__ uint32_t full(int stage) const { return barriers + 16 * stage; }
    __device__ __forceinline__ uint32_t empty(int stage) const { return full(stage) + 8; }
  };

  // The stages in turn. Within one lie units: of each the weight, then the activations.
  struct Ring {
    const Block& block;
    uint32_t stage_bytes, address;
    int stage = 0;
    uint32_t parity = 0;

    explicit __device__ __forceinline__ Ring(const Block& b)
        : block(b), stage_bytes(b.params.units * b.unit_bytes), address(b.ring) {}
    __device__ __forceinline__ void advance() {
      address += stage_bytes;
      if (++stage == block.params.stages) {
        stage = 0;
        address = block.ring;
        parity ^= 1;
      }
    }
    __device__ __forceinline__ uint32_t weight(int unit) const {
      return address + unit * block.unit_bytes;
    }
    __device__ __forceinline__ uint32_t activations(int unit) const {
      return weight(unit) + block.params.rows * kRowBytes;
    }
    __device__ __forceinline__ uint32_t scales(int unit) const {
      return block.scale_ring +
             (stage * block.params.units + unit) * stream_scale_bytes(kTokens);
    }
  };

  static __device__ __forceinline__ void run(const Params& params, const char* shared_memory) {
    const Block block(params, shared_memory);
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < params.stages; ++stage) {
        barrier_init(block.full(stage), kBlocks ? 1 + 32 : 1);
        barrier_init(block.empty(stage), kConsumers / 32);
      }
      barrier_init_done();
    }
    __syncthreads();
    allow_dependent_launch();
    if (threadIdx.x >= kConsumers) {
      produce(block);
    } else if (params.rows <= 64) {
      consume<true, true>(block);
    } else if (params.parts > 1) {
      consume<false, true>(block);
    } else {
      consume<false, false>(block);
    }
  }

  // All threads of the cluster, and what they wrote.
  static __device__ __forceinline__ void meet() {
    __syncwarp();
    ptx::cluster_arrive<true>();
    ptx::cluster_wait();
  }

  // One warp; all its lanes go through the motions, one issues.
  static __device__ __forceinline__ void produce(const Block& block) {
    const Params& p = block.params;
    if (elect_one()) {
      ptx::prefetch_tensor_map(p.a);
      ptx::prefetch_tensor_map(p.b);
    }
    __syncwarp();
    wait_for_prior_kernels();
    Ring ring(block);
    for (int tile = block.first_tile(); tile < p.tiles; tile += p.clusters) {
      const int row0 = tile * p.rows;  // of the weight
      for (int unit = block.begin; unit < block.end; unit += p.units) {
        const int count = min(p.units, block.end - unit);
        barrier_wait(block.empty(ring.stage), ring.parity ^ 1);
        const uint32_t full = block.full(ring.stage);
        if (elect_one()) {
          barrier_arrive_expecting(full, count * block.unit_bytes);
          uint32_t to = ring.address;
          int k = unit * kScaleBlock;
#pragma unroll 1
          for (int i = 0; i < count; ++i) {
            ptx::tensor_copy(to, p.b, k, row0, full);
            ptx::tensor_copy(to + p.rows * kRowBytes, p.a, k, 0, full);
            to += block.unit_bytes;
            k += kScaleBlock;
          }
        }
        __syncwarp();
        if constexpr (kBlocks) {
          for (int i = 0; i < count; ++i) copy_scales(p, row0, unit + i, ring.scales(i));
          barrier_arrive_after_copies(full);
        }
        ring.advance();
      }
      if (p.parts > 1) {  // as consume() does
        meet();
        meet();
      }
    }
  }

  // The scales of a unit: token by token, then of the blocks of rows from the tile's first on.
  static __device__ __forceinline__ void copy_scales(const Params& p, int row0, int unit,
                                                     uint32_t to) {
    const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int token = lane; token < kTokens; token += 32) {
      const int m = min(token, p.m - 1);
      copy_async_4(to + token * 4, p.a_scales + m * p.a_scale_row + unit * p.a_scale_block);
    }
    if (lane < kStreamRowBlocks) {
      const int n = min(row0 / kScaleBlock + lane, (p.n - 1) / kScaleBlock);
      copy_async_4(to + (kTokens + lane) * 4,
                   p.b_scales + n * p.b_scale_column + unit * p.b_scale_block);
    }
  }

  using Tile = float[kSums];

  // MMAs that add to the same sums wait for each other, some 65 cycles each, so neighbouring steps
  // of K add to different ones, as far as registers last.
  static constexpr int kSets = kTokens == 128             ? 1
                               : kTokens == 64            ? (kBlocks ? 1 : 2)
                               : kTokens == 32 && kBlocks ? 2
                                                          : 4;
  using Sets = Tile[kSets];

  // This thread's warpgroup, which the compiler sees to be its neighbours' too, and the first of
  // its rows of the tile.
  static __device__ __forceinline__ int team() {
    return __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0);
  }
  template <bool kSplitK>
  static __device__ __forceinline__ int team_row() {
    return kSplitK ? 0 : team() * 64;
  }

  // Starts the MMAs of one unit, which overwrite the sums or add to them.
  template <bool kAdd>
  static __device__ __forceinline__ void multiply(uint32_t weight, uint32_t activations,
                                                  Sets& sums) {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      ptx::mma_async_fp8<E4M3, ElementAct, kTokens>(
          sums[step % kSets], ptx::swizzled_operand(weight + 32 * step),
          ptx::swizzled_operand(activations + 32 * step), kAdd || step >= kSets);
    }
    ptx::mma_commit();
  }

  // One element of all sets.
  static __device__ __forceinline__ float total(const Sets& sums, int i) {
    float all = sums[0][i];
#pragma unroll
    for (int set = 1; set < kSets; ++set) all += sums[set][i];
    return all;
  }

  // A thread's rows of its warpgroup's are first_row() and 8 further; its tokens 8 j +
  // first_token() and the next.
  static __device__ __forceinline__ int first_row() {
    return static_cast<int>(threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4);
  }
  static __device__ __forceinline__ int first_token() {
    return static_cast<int>(threadIdx.x % 4 * 2);
  }

  static __device__ __forceinline__ void release(const Block& block, int stage) {
    if (threadIdx.x % 32 == 0) barrier_arrive(block.empty(stage));
  }

  static __device__ __forceinline__ void clear(Tile& sums) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      sums[i] = 0.0f;
      asm volatile("" : "+f"(sums[i]));  // before the MMAs, and not between them
    }
  }

  // Sums over this block's stretch of K; scales factor out.
  template <bool kSplitK>
  static __device__ __forceinline__ void add_up(const Block& block, Ring& ring, Tile& sums) {
    const uint32_t rows = team_row<kSplitK>() * kRowBytes;
    Sets sets;
#pragma unroll
    for (int set = 0; set < kSets; ++set) clear(sets[set]);
    int before = -1;
    for (int unit = block.begin; unit < block.end; unit += block.params.units) {
      const int count = min(block.params.units, block.end - unit);
      barrier_wait(block.full(ring.stage), ring.parity);
      for (int i = kSplitK ? team() : 0; i < count; i += kSplitK ? 2 : 1) {
        ptx::mma_fence();
        multiply<true>(ring.weight(i) + rows, ring.activations(i), sets);
        ptx::mma_wait<1>();
      }
      // All but the last unit's MMAs are done: the stage before is.
      if (before >= 0) release(block, before);
      before = ring.stage;
      ring.advance();
    }
    ptx::mma_wait<0>();
    release(block, before);
#pragma unroll
    for (int i = 0; i < kSums; ++i) sums[i] = total(sets, i);
  }

  // The scales of tokens 8 j + first_token() and the next.
  static __device__ __forceinline__ void load_two(uint32_t scales, int j, float (&out)[2]) {
    const uint2 two = load_shared_8(scales + (8 * j + first_token()) * 4);
    out[0] = __uint_as_float(two.x);
    out[1] = __uint_as_float(two.y);
  }

  // The same with a factor per unit of K: each unit's sums are scaled on their way into fp32.
  template <bool kSplitK>
  static __device__ __forceinline__ void add_up_blocks(const Block& block, int row0, Ring& ring,
                                                       Tile& sums) {
    const Params& p = block.params;
    const uint32_t rows = team_row<kSplitK>() * kRowBytes;
    clear(sums);
    Sets part;
    // Where in a unit's scales a thread finds those of its rows.
    uint32_t of_rows[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row0 + team_row<kSplitK>() + first_row() + 8 * half;
      const int of = min(row / kScaleBlock - row0 / kScaleBlock, kStreamRowBlocks - 1);
      of_rows[half] = (kTokens + of) * 4;
    }
    for (int unit = block.begin; unit < block.end; unit += p.units) {
      const int count = min(p.units, block.end - unit);
      barrier_wait(block.full(ring.stage), ring.parity);
      for (int i = kSplitK ? team() : 0; i < count; i += kSplitK ? 2 : 1) {
        ptx::mma_fence();
        multiply<false>(ring.weight(i) + rows, ring.activations(i), part);
        const uint32_t scales = ring.scales(i);
        float of_row[2];
#pragma unroll
        for (int half = 0; half < 2; ++half)
          of_row[half] = __uint_as_float(load_shared_4(scales + of_rows[half]));
        // While the MMAs run, if registers last.
        constexpr bool kEarly = kTokens < 128;
        float of_tokens[kEarly ? kTokens / 8 : 1][2];
        if constexpr (kEarly) {
#pragma unroll
          for (int j = 0; j < kTokens / 8; ++j) load_two(scales, j, of_tokens[j]);
        }
        ptx::mma_wait<0>();
#pragma unroll
        for (int j = 0; j < kTokens / 8; ++j) {
          if constexpr (!kEarly) load_two(scales, j, of_tokens[0]);
          const float(&of)[2] = of_tokens[kEarly ? j : 0];
#pragma unroll
          for (int i = 4 * j; i < 4 * j + 4; ++i)
            sums[i] = fmaf(of_row[i / 2 % 2] * of[i % 2], total(part, i), sums[i]);
        }
      }
      release(block, ring.stage);
      ring.advance();
    }
  }

  // What a thread needs of some columns of c, the same for every token; asked for before the sums
  // are ready.
  template <int kCount, int kStep>
  struct Columns {
    float scale[kCount], bias[kCount];

    __device__ __forceinline__ Columns(const Params& p, int first) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const int n = min(first + kStep * i, p.n - 1);
        scale[i] = kBlocks ? 1.0f : __ldg(p.b_scales + n * p.b_scale_column);
        bias[i] = p.bias == nullptr ? 0.0f : from_bits16(__ldg(p.bias + n), p.half);
      }
    }
  };

  // kShared: several warpgroups have sums of the same rows.
  template <bool kSplitK, bool kShared>
  static __device__ __forceinline__ void consume(const Block& block) {
    const Params& p = block.params;
    const auto thread = static_cast<int>(threadIdx.x);
    wait_for_prior_kernels();
    if (!kBlocks && thread < kTokens)
      copy_async_4(block.factors + thread * 4, p.a_scales + min(thread, p.m - 1) * p.a_scale_row);
    Ring ring(block);
    for (int tile = block.first_tile(); tile < p.tiles; tile += p.clusters) {
      const int row0 = tile * p.rows;  // of the weight
      const auto columns = [&] {
        if constexpr (kShared)
          return Columns<4, 1>(p, row0 + shared_row<kSplitK>());
        else
          return Columns<2, 8>(p, row0 + team_row<kSplitK>() + first_row());
      }();
      Tile sums;
      if constexpr (kBlocks)
        add_up_blocks<kSplitK>(block, row0, ring, sums);
      else
        add_up<kSplitK>(block, ring, sums);
      copy_async_wait();
      sync_named<kConsumers, 1>();  // all warps are done with the ring, and with the tile before
      if constexpr (kShared) {
        keep<kSplitK>(block, sums);
        sync_named<kConsumers, 1>();
        if (p.parts > 1) meet();
        store_shared<kSplitK>(block, row0, columns);
        if (p.parts > 1) meet();  // a neighbour may still be reading these sums
      } else {
        store(block, row0, columns, sums);
      }
    }
  }

  // Sums to shared memory, token by token; where K is split, each warpgroup's apart.
  template <bool kSplitK>
  static __device__ __forceinline__ void keep(const Block& block, const Tile& sums) {
    constexpr int kPitch = stream_pitch(kSplitK ? 64 : 128);
    const uint32_t to = block.sums + (kSplitK ? team() * kTokens * kPitch * 4 : 0);
    const int row = team_row<kSplitK>() + first_row();
#pragma unroll
    for (int j = 0; j < kSums; ++j) {
      const int r = row + j / 2 % 2 * 8, token = j / 4 * 8 + first_token() + j % 2;
      if (r < block.params.rows && token < block.params.m) {
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(to + (token * kPitch + r) * 4), "f"(sums[j])
                     : "memory");
      }
    }
  }

  // Four rows of a tile a thread.
  template <bool kSplitK>
  static constexpr int kQuads = (kSplitK ? 64 : 128) / 4;
  template <bool kSplitK>
  static __device__ __forceinline__ int shared_row() {
    return static_cast<int>(threadIdx.x) % kQuads<kSplitK> * 4;
  }

  // Adds up what several have, scales, converts, stores: a thread its rows of one token after the
  // other; the blocks of a cluster share out the tokens among themselves.
  template <bool kSplitK>
  static __device__ __forceinline__ void store_shared(const Block& block, int row0,
                                                      const Columns<4, 1>& columns) {
    constexpr int kPitch = stream_pitch(kSplitK ? 64 : 128);
    constexpr int kAtOnce = kConsumers / kQuads<kSplitK>;
    const Params& p = block.params;
    const int row = shared_row<kSplitK>(), n = row0 + row;
    if (row >= p.rows || n >= p.n) return;
    const int first = block.part * kAtOnce + static_cast<int>(threadIdx.x) / kQuads<kSplitK>;
#pragma unroll 4
    for (int token = first; token < p.m; token += p.parts * kAtOnce) {
      const uint32_t address = block.sums + (token * kPitch + row) * 4;
      float sums[4] = {};
#pragma unroll
      for (int from = 0; from < kStreamMaxParts; ++from) {
        if (from >= p.parts) break;
        const uint32_t part = p.parts > 1 ? ptx::cluster_address(address, from) : address;
#pragma unroll
        for (int team = 0; team < (kSplitK ? 2 : 1); ++team) {
          const float4 four = ptx::load_cluster_16(part + team * kTokens * kPitch * 4);
          sums[0] += four.x;
          sums[1] += four.y;
          sums[2] += four.z;
          sums[3] += four.w;
        }
      }
      const float factor =
          kBlocks ? 1.0f : __uint_as_float(load_shared_4(block.factors + token * 4));
      cutlass::Array<float, 4> out;
#pragma unroll
      for (int j = 0; j < 4; ++j) out[j] = fmaf(factor, columns.scale[j] * sums[j], columns.bias[j]);
      const auto bits = to_bits16(out, p.half);
      *reinterpret_cast<uint2*>(p.c + token * p.ldc + n) = reinterpret_cast<const uint2&>(bits);
    }
  }

  // Where a team's 64 rows lie on their way out, token by token, 16 bytes of eight neighbouring
  // tokens in different banks.
  static __device__ __forceinline__ uint32_t output(const Block& block, int token, int eight_rows) {
    const int team = static_cast<int>(threadIdx.x) / 128;
    return block.sums + (team * kTokens + token) * 128 + (eight_rows ^ (token % 8)) * 16;
  }

  // Where one warpgroup has all of a row's sums: each scales, converts and stores its own, a warp 16
  // tokens at a time.
  static __device__ __forceinline__ void store(const Block& block, int row0,
                                               const Columns<2, 8>& columns, const Tile& sums) {
    const Params& p = block.params;
    const auto thread = static_cast<int>(threadIdx.x);
    const int rows = team_row<false>();
#pragma unroll
    for (int first = 0; first < kTokens; first += 16) {
      if (first >= p.m) break;
      uint32_t bits[4];
#pragma unroll
      for (int eight = 0; eight < 2; ++eight) {
        const int j = first / 8 + eight;
        float of_tokens[2] = {1.0f, 1.0f};
        if constexpr (!kBlocks) load_two(block.factors, j, of_tokens);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          cutlass::Array<float, 2> out;
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            out[i] = fmaf(of_tokens[i], columns.scale[half] * sums[4 * j + 2 * half + i],
                          columns.bias[half]);
          }
          const auto two = to_bits16(out, p.half);
          bits[2 * eight + half] = reinterpret_cast<const uint32_t&>(two);
        }
      }
      // Of each of the four 8 x 8 pieces a lane says where one token's rows go.
      const int token = first + thread % 32 / 16 * 8 + thread % 8;
      ptx::store_shared_transposed(
          output(block, token, thread % 128 / 32 * 2 + thread % 16 / 8), bits);
    }
    if (thread < 128)
      sync_named<128, 2>();
    else
      sync_named<128, 3>();
    const int eight_rows = thread % 8, row = rows + 8 * eight_rows;
    if (row >= p.rows || row0 + row >= p.n) return;
#pragma unroll 4
    for (int token = thread % 128 / 8; token < p.m; token += 16) {
      *reinterpret_cast<uint4*>(p.c + token * p.ldc + row0 + row) =
          load_shared_16(output(block, token, eight_rows));
    }
  }
};

}  // namespace kernelpkg
