# Kaitai Struct: what FORMAT.md says, for parsers in other languages. `scripts/check-kaitai` compiles
# it and compares a parser with `lbpayload list --json`. A parser checks less than lbpayload does: it
# knows no limits, and reads files as a whole.
meta:
  id: lbpayload
  title: LBPAYLD1 payload, with its protection trailer
  file-extension: img
  license: MIT OR Apache-2.0
  ks-version: "0.10"
  endian: le
seq:
  - id: magic
    contents: LBPAYLD1
  - id: num_files
    type:
      switch-on: is_narrow
      cases:
        true: u4
        false: u8
  - id: entries
    type: entry
    repeat: expr
    repeat-expr: num_files
instances:
  second_word:
    pos: 12
    type: u4
    if: _io.size >= 16
  is_narrow:
    value: "_io.size < 16 ? true : second_word != 0"
    doc: Whether this is the early dialect, with integers of 32 bits.
  len_payload:
    value: "num_files == 0 ? (is_narrow ? 12 : 16) : entries.last.ofs_data + entries.last.len_data"
  ofs_trailer:
    value: (len_payload + 4095) / 4096 * 4096
  trailer_magic:
    pos: ofs_trailer
    size: 8
    if: ofs_trailer + 4096 <= _io.size
  has_trailer:
    value: "ofs_trailer + 4096 <= _io.size ? trailer_magic == [0x4c, 0x42, 0x50, 0x52, 0x4f, 0x54, 0x43, 0x31] : false"
  trailer:
    pos: ofs_trailer
    type: trailer_header
    if: has_trailer
types:
  entry:
    seq:
      - id: len_name
        type:
          switch-on: _root.is_narrow
          cases:
            true: u4
            false: u8
      - id: len_data
        type:
          switch-on: _root.is_narrow
          cases:
            true: u4
            false: u8
      - id: name
        type: str
        size: len_name
        encoding: UTF-8
      - size: 0
        if: ofs_data >= 0
      - id: data
        size: len_data
    instances:
      ofs_data:
        value: _io.pos
        doc: Set by the field before `data`, which reads nothing.
  trailer_header:
    doc: The header of the protection trailer. All offsets count from the start of the payload.
    seq:
      - id: magic
        contents: LBPROTC1
      - id: version
        type: u4
        valid: 1
      - id: flags
        type: u4
        doc: Bit 0 is set if the writer was interrupted.
      - id: len_payload
        type: u8
      - id: root
        size: 32
        doc: The BLAKE3 hash of the payload.
      - id: region_blocks
        type: u8
      - id: stripes
        type: u4
      - id: stripe_recovery_blocks
        type: u4
      - id: last_stripes
        type: u4
      - id: last_stripe_recovery_blocks
        type: u4
      - id: percent
        type: u4
      - id: reserved
        type: u4
      - id: len_headers_copy
        type: u8
      - id: headers_copy_hash
        size: 32
      - id: ofs_metadata
        type: u8
      - id: len_metadata
        type: u8
      - id: len_hash_tree
        type: u8
      - id: len_block_hashes
        type: u8
      - id: ofs_recovery
        type: u8
      - id: len_recovery
        type: u8
      - id: ofs_second_metadata
        type: u8
      - id: ofs_second_header
        type: u8
      - id: former_len
        type: u8
      - id: unused
        size: 3864
      - id: hash
        size: 32
        doc: The BLAKE3 hash of the 4064 bytes before it.
    instances:
      hash_tree:
        io: _root._io
        pos: ofs_metadata
        size: len_hash_tree
      block_hashes:
        io: _root._io
        pos: ofs_metadata + len_hash_tree
        size: len_block_hashes
      headers_copy:
        io: _root._io
        pos: ofs_metadata + len_hash_tree + len_block_hashes
        size: len_headers_copy
      recovery:
        io: _root._io
        pos: ofs_recovery
        size: len_recovery
      second_header:
        io: _root._io
        pos: ofs_second_header
        size: 4096
