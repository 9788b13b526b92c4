// The orders in which the gates of a GRU lie in arrays: the only place where they are written out.

#pragma once

namespace gruflax {

// Keras' order, z | r | n: that of the columns of weights, biases and their gradients, and of
// dropout masks where each gate has its own. The candidate n is the last. It depends on r, and the
// kCandidateGate gates before it do not depend on each other.
enum Gate { kUpdateGate, kResetGate, kCandidateGate, kGates };

// The order h_n | z | r | n: that of a sample's record, of the gates that are kept for the backward
// pass, and of the panels of biases. If the reset comes after the product with the state, h_n is
// this product, h R_n + c_n, which the reset gate r multiplies. If it comes before, h_n is r * h.
//
// The state takes part in h_n, z and r, and the inputs take part in z, r and n. In this order both
// of them have three slots side by side, so that the backward pass needs one product for the three.
enum Slot { kStateN, kZ, kR, kN, kSlots };

// The slot that belongs to a gate's product with the inputs, and to its product with the state.
constexpr Slot kInputSlot[kGates] = {kZ, kR, kN};
constexpr Slot kStateSlot[kGates] = {kZ, kR, kStateN};

// The gates of the state's three slots, from the first slot on.
constexpr Gate kStateGate[kGates] = {kCandidateGate, kUpdateGate, kResetGate};

static_assert(kInputSlot[0] == kZ && kInputSlot[1] == kZ + 1 && kInputSlot[2] == kZ + 2,
              "the inputs' slots are side by side, in Keras' order");
static_assert(kStateSlot[kStateGate[0]] == 0 && kStateSlot[kStateGate[1]] == 1 &&
                  kStateSlot[kStateGate[2]] == 2,
              "one table is the inverse of the other");

}  // namespace gruflax
