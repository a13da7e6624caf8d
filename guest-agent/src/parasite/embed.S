/* SPDX-License-Identifier: Apache-2.0 */
    .section .rodata
    .globl moult_parasite_begin, moult_parasite_end
    .balign 16
moult_parasite_begin:
    .incbin MOULT_BLOB
moult_parasite_end:
    .section .note.GNU-stack, "", @progbits
