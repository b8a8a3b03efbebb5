"""Names that numpy, OpenCV and Pillow had when most code that models learned from was written. Only a name that is missing is added;
the functions that want a screen do nothing."""
import ctypes
import gc
import math
import warnings

import cv2
import numpy
from PIL import Image, ImageDraw, ImageFont, ImageMath

# Names without a successor that can be called with the same arguments are written below.
NUMPY_ALIASES = """
int0:intp uint0:uintp bool8:bool_ object0:object_ str0:str_ bytes0:bytes_ void0:void unicode_:str_ string_:bytes_ float_:float64
complex_:complex128 singlecomplex:complex64 cfloat:complex128 longfloat:longdouble clongfloat:clongdouble longcomplex:clongdouble
Inf:inf Infinity:inf infty:inf PINF:inf NaN:nan NAN:nan product:prod cumproduct:cumprod sometrue:any alltrue:all
row_stack:vstack trapz:trapezoid round_:round mat:asmatrix issubclass_:issubdtype fastCopyAndTranspose:transpose"""
# Functions that want a screen, and what they give without one.
SCREENLESS = (
    (-1, "waitKey waitKeyEx pollKey getTrackbarPos"),
    (-1.0, "getWindowProperty"),
    ((0, 0, 0, 0), "selectROI getWindowImageRect"),
    ((), "selectROIs"),
    (None, """imshow namedWindow destroyWindow destroyAllWindows resizeWindow moveWindow setWindowTitle setWindowProperty setMouseCallback
        createTrackbar setTrackbarPos setTrackbarMin setTrackbarMax startWindowThread displayOverlay displayStatusBar createButton addText
        setOpenGlContext setOpenGlDrawCallback updateWindow"""),
)


def add(owner, **names):
    """Adds the names that `owner` lacks. Asking numpy itself for one would print a warning."""
    for name, value in names.items():
        if name not in vars(owner):
            setattr(owner, name, value)


def set_methods(kind, **methods):
    """Sets methods of a type that is written in C, which has no other way in."""
    gc.get_referents(kind.__dict__)[0].update(methods)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))


def add_numpy_names():
    add(numpy, int=int, float=float, bool=bool, object=object, str=str, complex=complex, unicode=str, long=int, math=math)
    for pair in NUMPY_ALIASES.split():
        old, new = pair.split(":")
        if hasattr(numpy, new):
            add(numpy, **{old: getattr(numpy, new)})
    add(numpy, NINF=-math.inf, PZERO=0.0, NZERO=-0.0)
    for name in ("AxisError", "ComplexWarning", "RankWarning", "VisibleDeprecationWarning", "ModuleDeprecationWarning", "TooHardError"):
        exceptions = getattr(numpy, "exceptions", None)
        if hasattr(exceptions, name):
            add(numpy, **{name: getattr(exceptions, name)})

    def in1d(ar1, ar2, assume_unique=False, invert=False, **named):
        return numpy.isin(numpy.ravel(ar1), ar2, assume_unique, invert, **named)

    def asfarray(a, dtype=numpy.float64):
        return numpy.asarray(a, dtype if numpy.issubdtype(dtype, numpy.inexact) else numpy.float64)

    def msort(a):
        return numpy.sort(a, axis=0)

    def asscalar(a):
        return a.item()

    def rank(a):
        return numpy.ndim(a)

    def find_common_type(array_types, scalar_types):
        return numpy.result_type(*array_types, *(numpy.dtype(kind).type(0) for kind in scalar_types))

    def obj2sctype(rep, default=None):
        try:
            return numpy.dtype(rep).type
        except TypeError:
            return default

    def issctype(rep):
        return isinstance(rep, numpy.dtype) or (isinstance(rep, type) and issubclass(rep, numpy.generic))

    def set_string_function(f, repr=True):
        numpy.set_printoptions(override_repr=f)

    def disp(mesg, device=None, linefeed=True):
        print(mesg, end="\n" if linefeed else "", file=device)

    add(numpy, in1d=in1d, asfarray=asfarray, msort=msort, asscalar=asscalar, rank=rank, find_common_type=find_common_type)
    add(numpy, obj2sctype=obj2sctype, issctype=issctype, set_string_function=set_string_function, disp=disp, issubsctype=numpy.issubdtype)
    kinds = {"int": "int8 int16 int32 int64", "uint": "uint8 uint16 uint32 uint64", "float": "float16 float32 float64"}
    kinds.update(complex="complex64 complex128", others="bool_ object_ bytes_ str_ void")
    add(numpy, sctypes={kind: [getattr(numpy, name) for name in names.split()] for kind, names in kinds.items()})

    def ptp(self, axis=None, out=None, **named):
        return numpy.ptp(self, axis, out, **named)

    def itemset(self, *arguments):
        *where, value = arguments
        if len(where) == 1:
            where = where[0] if isinstance(where[0], tuple) else numpy.unravel_index(where[0], self.shape)
        self[tuple(where)] = value

    def newbyteorder(self, new_order="S"):
        return self.view(self.dtype.newbyteorder(new_order))

    def tostring(self, order="C"):
        return self.tobytes(order)

    if not hasattr(numpy.ndarray, "tostring"):
        set_methods(numpy.ndarray, tostring=tostring)
    # Since numpy 2 these raise, or are gone.
    if int(numpy.__version__.split(".")[0]) >= 2:
        set_methods(numpy.ndarray, ptp=ptp, itemset=itemset, newbyteorder=newbyteorder)


def add_opencv_names():
    # There is no screen: showing is nothing, as on any server.
    for value, names in SCREENLESS:
        for name in names.split():
            setattr(cv2, name, lambda *_, value=value, **__: value)
    add(cv2, CV_AA=cv2.LINE_AA, cv2=cv2, CV_FILLED=cv2.FILLED, CV_LOAD_IMAGE_COLOR=cv2.IMREAD_COLOR)
    add(cv2, CV_LOAD_IMAGE_GRAYSCALE=cv2.IMREAD_GRAYSCALE, CV_LOAD_IMAGE_UNCHANGED=cv2.IMREAD_UNCHANGED)


def add_pillow_names():
    resampling = Image.Resampling
    add(Image, ANTIALIAS=resampling.LANCZOS, LINEAR=resampling.BILINEAR, CUBIC=resampling.BICUBIC, NEAREST=resampling.NEAREST)
    for group in (resampling, Image.Transpose, Image.Transform, Image.Dither, Image.Palette, Image.Quantize):
        add(Image, **{member.name: member for member in group})
    add(Image, NORMAL=0, SEQUENCE=1, CONTAINER=2, isImageType=lambda t: isinstance(t, Image.Image))
    Image.Image.show = lambda *_, **__: None

    def getsize(self, text, *arguments, **named):
        left, top, right, bottom = self.getbbox(text, *arguments, **named)
        return right, bottom

    def getoffset(self, text):
        return self.getbbox(text)[:2]

    def getsize_multiline(self, text, direction=None, spacing=4, features=None, language=None, stroke_width=0):
        draw = ImageDraw.Draw(Image.new("L", (1, 1)))
        box = draw.multiline_textbbox((0, 0), text, self, None, spacing, "left", direction, features, language, stroke_width)
        return box[2], box[3]

    for kind in (ImageFont.FreeTypeFont, ImageFont.ImageFont, ImageFont.TransposedFont):
        add(kind, getsize=getsize)
    add(ImageFont.FreeTypeFont, getoffset=getoffset, getsize_multiline=getsize_multiline)
    add(ImageFont, LAYOUT_BASIC=ImageFont.Layout.BASIC, LAYOUT_RAQM=ImageFont.Layout.RAQM)

    def textsize(self, text, font=None, *arguments, **named):
        return self.textbbox((0, 0), text, font, None, *arguments, **named)[2:]

    add(ImageDraw.ImageDraw, textsize=textsize, multiline_textsize=textsize)
    if hasattr(ImageMath, "unsafe_eval"):
        add(ImageMath, eval=ImageMath.unsafe_eval)


def add_old_names():
    # Such a name is no news to code that was written before it was old.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    add_numpy_names()
    add_opencv_names()
    add_pillow_names()
