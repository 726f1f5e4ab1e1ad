"""Mistakes in the reading of images and molecules of one's own, and in what is made of them."""

from tests.mistakes import Mutant

FOLDER, LISTING, DOMAIN, DRAWING = "images/folder.py", "images/listing.py", "domains/folder.py", "images/drawing.py"
SMILES, MINE, KNOWN = "molecules/smiles.py", "domains/smiles.py", "molecules/known.py"
T_FOLDER, T_DOMAIN, T_DRAWING = (
    "images/test_folder_files.py",
    "domains/test_folder_classes.py",
    "images/test_drawing.py",
)
T_SMILES, T_MINE = "molecules/test_smiles_files.py", "domains/test_smiles_elements.py"

MUTANTS = [
    Mutant("folder: copies on both sides of the split", FOLDER, "for row in rows if same[row] in chosen]",
           "for row in rows if hashlib.blake2b(files[row].name.encode(), digest_size=8).digest() in "
           "{first[key] for key in chosen}]", T_FOLDER, "copies"),
    Mutant("folder: a test image is trained on where it is in train/ too", FOLDER, 'or same[row] not in held]', "or True]",
           T_FOLDER, "both"),
    Mutant("folder: the camera's orientation is ignored", FOLDER, "opaque(ImageOps.exif_transpose(image))", "opaque(image)",
           T_FOLDER, "upright"),
    Mutant("folder: transparent is black", FOLDER, 'over.size, "white")', 'over.size, "black")', T_FOLDER, "every_kind"),
    Mutant("smiles: charges pass", SMILES, "if any(atom.GetFormalCharge() for atom in mol.GetAtoms()):", "if False:",
           "domains/test_smiles.py", "counted"),
    Mutant("folder: 16 bits wrap", FOLDER, "(deep / 257).round()", "(deep % 256).round()", T_FOLDER, "every_kind"),
    Mutant("folder: no antialias", FOLDER, "Image.Resampling.BICUBIC", "Image.Resampling.NEAREST", T_FOLDER, "averages"),
    Mutant("folder: any number of files may be unreadable", FOLDER, "if len(bad) > max(1, BAD", "if len(bad) > max(99, BAD",
           T_FOLDER, "unreadable"),
    Mutant("folder: a decompression bomb is read", FOLDER, 'warnings.simplefilter("error", Image.DecompressionBombWarning)',
           "Image.MAX_IMAGE_PIXELS = None", T_FOLDER, "unreadable"),
    Mutant("folder: pixels are kept as they lie in memory", FOLDER, "np.ascontiguousarray(np.stack(each))", "np.stack(each)",
           T_FOLDER, "slow"),
    Mutant("folder: what is kept outlives a file's change", FOLDER, "found.files, channels, size, 1)", "channels, size, 1)",
           T_FOLDER, "slow"),
    Mutant("folder: classes in the order of the disk", LISTING, "classes = sorted({name for part in found.values() for name in part})",
           "classes = sorted({name for part in found.values() for name in part}, reverse=True)", T_FOLDER, "classes_by_name"),
    Mutant("folder: random figures under the classifiers' names", DOMAIN, "return found if self.classifiers else",
           "return found if True else", T_DOMAIN, "figures_know"),
    Mutant("folder: classifiers of other images judge", DOMAIN, "if has != wanted:", "if False:", T_DOMAIN, "no_other"),
    Mutant("pictures: red for all colours", DRAWING, "few = image[:MOST]", "few = image[:MOST, :1]", T_DRAWING, "colour"),
    Mutant("pictures: no captions", DRAWING, "        if any(named):\n", "        if False:\n", T_DRAWING, "captions_are"),
    Mutant("conditions: another name's number", "diffusion/conditioning.py", "return self.texts.index(text)",
           "return sorted(self.texts).index(text)", T_DOMAIN, "have_names"),
    Mutant("smiles: a graph that is another molecule is kept", SMILES, "None if faithful(mol) else", "None if True else",
           T_SMILES, "cannot_hold"),
    Mutant("smiles: copies are other molecules", SMILES, "kept.setdefault(smiles, mol)", "kept.setdefault(text, mol)",
           T_SMILES, "cannot_hold"),
    Mutant("smiles: novelty by QM9's index", KNOWN, "return molecules.source or QM9", "return QM9", T_MINE, "novelty"),
    Mutant("smiles: a base of other elements", MINE, "if of and {key: of.get(key) for key in own} != own:", "if False:",
           T_MINE, "other_elements"),
    Mutant("smiles: today's shares for those of the base", MINE, 'Shares(tuple(of["type_shares"]), tuple(of["bond_shares"]))',
           "self.shares", T_MINE, "keeps_its_shares"),
]  # fmt: skip
